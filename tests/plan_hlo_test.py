"""What is read off HLO texts is what was written into them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.plan import hlo
from mnemonics_jax.plan.hlo import text as hlo_text

# Loops as in TPU programs, which do not say how often they run: from 2 to 9,
# and in each round 5 times inside. One all-reduce a round, and one collective
# of each kind that starts and ends apart.
LOOPS = """
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%inner_body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %x = f32[8]{0:T(128)} get-tuple-element(%p), index=1
  %all-reduce.1 = f32[8]{0:T(128)} all-reduce(%x), replica_groups={}, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%next, %all-reduce.1)
}

%inner_condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (q: (f32[8], s32[])) -> (f32[8], s32[]) {
  %q = (f32[8]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %x = f32[8]{0:T(128)} get-tuple-element(%q), index=0
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %state = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%start, %x)
  %while.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%state), condition=%inner_condition, body=%inner_body, metadata={op_name="jit(f)/while/body/vmap()/gather"}
  %y = f32[8]{0:T(128)} get-tuple-element(%while.1), index=1
  %n = s32[]{:T(128)} get-tuple-element(%q), index=1
  ROOT %t = (f32[8]{0:T(128)}, s32[]{:T(128)}) tuple(%y, %n)
}

%condition (q: (f32[8], s32[])) -> pred[] {
  %q = (f32[8]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%q), index=1
  %limit = s32[]{:T(128)} constant(9)
  ROOT %less = pred[]{:T(512)} compare(%n, %limit), direction=LE
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(128)} parameter(0)
  %two = s32[]{:T(128)} constant(2)
  %state = (f32[8]{0:T(128)}, s32[]{:T(128)}) tuple(%x, %two)
  %while.2 = (f32[8]{0:T(128)}, s32[]{:T(128)}) while(%state), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}
  %y = f32[8]{0:T(128)} get-tuple-element(%while.2), index=0
  %all-reduce-start = f32[8]{0} all-reduce-start(%y), to_apply=%add
  %all-reduce-done = f32[8]{0} all-reduce-done(%all-reduce-start)
  %all-gather-start = (f32[8]{0}, f32[32]{0}) all-gather-start(%y), dimensions={0}
  %all-gather-done = f32[32]{0} all-gather-done(%all-gather-start)
  %collective-permute-start = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%y)
  %collective-permute-done = bf16[8]{0} collective-permute-done(%collective-permute-start)
  ROOT %z = f32[8]{0:T(128)} add(%all-reduce-done, %y)
}
"""  # noqa: E501


def test_loops_run_as_often_as_their_conditions_say():
    found = hlo.cost(LOOPS).loops
    assert found == (
        hlo.Loop(8, 1, 'jit(f)/while', by_compiler=False),
        hlo.Loop(5, 8, 'jit(f)/while/body/vmap()/gather', by_compiler=True),
    )


def test_collectives_count_by_rounds_and_what_starts_apart_once():
    assert hlo.collectives(LOOPS) == {
        'all-reduce': (8 * 5 + 1, (8 * 5 + 1) * 8 * 4),
        'all-gather': (1, 32 * 4),
        'collective-permute': (1, 8 * 2),
    }


def test_a_loop_without_a_constant_bound_counts_once():
    text = LOOPS.replace('constant(5)', 'parameter(1)')
    assert [loop.trips for loop in hlo.cost(text).loops] == [8, None]
    assert hlo.collectives(text)['all-reduce'].calls == 8 + 1


def test_what_the_program_says_of_a_loop_goes_first():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    text = LOOPS.replace('body=%body', known)
    assert hlo.collectives(text)['all-reduce'].calls == 3 * 5 + 1


KERNELS = """
%sliced (p: f32[4,128], i: s32[]) -> f32[1,128] {
  %p = f32[4,128]{1,0:T(4,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  ROOT %row = f32[1,128]{1,0:T(1,128)} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,128}
}

ENTRY %main (x: f32[3,100], w: f32[4,128]) -> f32[3,5] {
  %x = f32[3,100]{1,0:T(8,128)} parameter(0)
  %y = f32[100,5]{1,0:T(8,128)} parameter(1)
  %w = f32[4,128]{1,0:T(4,128)} parameter(2)
  %i = s32[]{:T(128)S(6)} parameter(3)
  %inside = f32[3,100]{1,0:T(8,128)S(1)} copy(%x), backend_config={"window_config":{"estimated_cycles":"70"}}
  %row = f32[1,128]{1,0:T(1,128)} fusion(%w, %i), kind=kLoop, calls=%sliced, backend_config={"window_config":{"estimated_cycles":"30"}}
  ROOT %dot = f32[3,5]{1,0:T(8,128)} dot(%inside, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""  # noqa: E501


def test_bytes_are_those_of_whole_tiles_in_the_memory_of_the_chip():
    """A copy into the chip, a row of an array, and a product from the chip."""
    found = hlo.cost(KERNELS)
    tile = 8 * 128 * 4
    copied, row = tile, 2 * 128 * 4
    product = 13 * tile + tile
    assert found.hbm_bytes == copied + row + product
    assert found.kernels == 3
    assert found.cycles == 100
    assert found.flops == 2 * 3 * 5 * 100


STARTS = """
ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:128]}
  %slice-done = f32[2,128]{1,0:T(2,128)S(1)} slice-done(%slice-start)
  %all-gather-start = (f32[8,128]{1,0:T(8,128)}, f32[16,128]{1,0:T(8,128)}) all-gather-start(%x), dimensions={0}
  ROOT %all-gather-done = f32[16,128]{1,0:T(8,128)} all-gather-done(%all-gather-start)
}
"""  # noqa: E501


def test_what_starts_and_ends_apart_moves_its_bytes_once():
    """A whole array into the chip, two rows of it, and it to a neighbour."""
    tile, rows = 8 * 128 * 4, 2 * 128 * 4
    assert hlo.cost(STARTS).hbm_bytes == tile + rows + (tile + 2 * tile)
    assert hlo.cost(STARTS).kernels == 3


def test_only_images_that_are_laid_out_anew_count_as_copies():
    assert hlo.cost(KERNELS).largest_image_copy == 0
    images = KERNELS.replace('f32[3,100]', 'u8[3,100]')
    assert hlo.cost(images).largest_image_copy == 3 * 100


def test_estimates_that_overflow_are_none():
    assert hlo.cost(KERNELS.replace('"70"', f'"{2**60}"')).cycles is None
    without = KERNELS.replace('estimated_cycles', 'other')
    assert hlo.cost(without).cycles is None


CONVOLUTION = """
ENTRY %main () -> f32[2,4,4,7] {{
  %x = f32[2,8,8,3]{{3,2,1,0}} parameter(0)
  %k = f32[7,3,3,3]{{3,2,1,0}} parameter(1)
  %g = f32[2,4,4,7]{{3,2,1,0}} parameter(2)
  ROOT %c = {result}
}}
"""
WINDOW = 'window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f'


@pytest.mark.parametrize(
    'result',
    [
        f'f32[2,4,4,7]{{3,2,1,0}} convolution(%x, %k), {WINDOW}',
        '(f32[2,4,4,7]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), '
        f'{WINDOW}, custom_call_target="__cudnn$convForward"',
        '(f32[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%g, %k), '
        f'{WINDOW}, custom_call_target="__cudnn$convBackwardInput"',
        '(f32[7,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), '
        f'{WINDOW}, custom_call_target="__cudnn$convBackwardFilter"',
    ],
)
def test_a_convolution_and_its_gradients_cost_the_same(result):
    """Counted by hand: the taps that meet a pixel and no padding."""
    taps = sum(
        0 <= 2 * row + r - 1 < 8 and 0 <= 2 * column + c - 1 < 8
        for row in range(4)
        for column in range(4)
        for r in range(3)
        for c in range(3)
    )
    text = CONVOLUTION.format(result=result)
    assert hlo.cost(text).flops == 2 * 2 * 7 * 3 * taps


def test_a_product_of_cublas_is_one():
    text = """
ENTRY %main () -> f32[3,5] {
  %x = f32[3,100]{1,0} parameter(0)
  %y = f32[100,5]{1,0} parameter(1)
  ROOT %c = (f32[3,5]{1,0}, s8[64]{0}) custom-call(%x, %y), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
}
"""  # noqa: E501
    assert hlo.cost(text).flops == 2 * 3 * 5 * 100


def test_elements_of_a_tuple_are_split_at_its_own_commas():
    shape = '((f32[2,3]{1,0:T(8,128)}, s32[]), /*index=1*/pred[4]{0}, u32[])'
    parts = hlo_text.elements(shape)
    assert parts[0] == '(f32[2,3]{1,0:T(8,128)}, s32[])'
    assert len(parts) == 3
    assert hlo_text.array_bytes(parts[0]) == 2 * 3 * 4 + 4
    assert hlo_text.array_bytes(parts[0], padded=True) == 8 * 128 * 4 + 4
    assert hlo_text.array_bytes(parts[1]) == 4


def test_collectives_of_a_real_program_are_counted_as_by_hand(all_devices):
    """One sum before a loop, two of other sizes in each of its five rounds."""
    mesh = all_devices.mesh
    (axis,) = mesh.axis_names
    split = jax.sharding.PartitionSpec(axis)

    def work(x):
        total = jax.lax.psum(x[0, :3], axis)

        def round_(carry, _):
            a, b = carry
            a = jax.lax.psum(jnp.sin(a), axis)
            b = jax.lax.all_gather(b[: b.size // 8] * a[0], axis, tiled=True)
            return (a, b), None

        start = (total, jnp.zeros(16) + x[0, 0])
        (a, b), _ = jax.lax.scan(round_, start, length=5)
        return a.sum() + b.sum() + jnp.zeros(1)

    mapped = jax.shard_map(
        work, mesh=mesh, in_specs=split, out_specs=split, check_vma=False
    )
    text = jax.jit(mapped).lower(jnp.ones((8, 4))).compile().as_text()
    found = hlo.collectives(text)
    assert found == {'all-reduce': (6, 6 * 12), 'all-gather': (5, 5 * 64)}


def test_operations_of_a_real_program_are_those_of_its_products():
    """A product in each of seven rounds, on the CPU."""

    def work(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, length=7)

    text = jax.jit(work).lower(np.ones((16, 16))).compile().as_text()
    assert hlo.cost(text).flops == 7 * 2 * 16**3
    assert [loop.trips for loop in hlo.cost(text).loops] == [7]
