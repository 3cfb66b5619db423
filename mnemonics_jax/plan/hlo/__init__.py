"""Reads the HLO text of a compiled program: what one execution of it costs.

Bodies of loops count as often as they run. GPU programs say how often; in TPU
programs it is read from the condition of the loop. All branches count.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from mnemonics_jax.plan.hlo.flops import flops_of
from mnemonics_jax.plan.hlo.text import (
    Computation,
    Instruction,
    Program,
    array_bytes,
    elements,
    parse,
)

KINDS = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'collective-permute',
    'all-to-all',
)
# Instructions that do no work of their own.
_FREE = {
    'after-all',
    'bitcast',
    'call',
    'conditional',
    'constant',
    'get-tuple-element',
    'iota',
    'opt-barrier',
    'parameter',
    'partition-id',
    'tuple',
    'while',
}
_CALLED = re.compile(
    r'(?:calls|to_apply|body|called_computations)=\{?%?([\w.-]+)'
)
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# Estimates of some programs overflow; a step takes no hour.
_MOST_CYCLES = 2**42
_LOOPS_OF_JAX = ('while', 'scan')


class Count(NamedTuple):
    """Counts of one kind of collective in one execution of a program.

    Attributes:
        calls: number of executions; one may reduce several arrays.
        bytes: bytes of their results on each device.
    """

    calls: int
    bytes: int


class Executed(NamedTuple):
    """An instruction as it is executed.

    Attributes:
        instruction: the instruction.
        inside: the computation that it belongs to.
        times: number of executions.
        fused: whether it is part of another instruction.
        depth: number of loops around it.
    """

    instruction: Instruction
    inside: Computation
    times: int
    fused: bool
    depth: int


class Loop(NamedTuple):
    """A loop.

    Attributes:
        trips: rounds of each execution; None if they are not known.
        times: executions.
        name: the operation that it comes from.
        by_compiler: whether the compiler made it of an operation such as a
            gather, and not JAX of a scan.
    """

    trips: int | None
    times: int
    name: str
    by_compiler: bool


class Cost(NamedTuple):
    """What one execution of a program costs on each device.

    Attributes:
        flops: floating-point operations of convolutions and products.
        hbm_bytes: bytes that pass between the memory and the chip, each operand
            and result of each kernel once, padded as it lies there.
        kernels: executions of kernels.
        cycles: cycles by the compiler's own estimate; None without one.
        collectives: by kind.
        loops: all loops.
        largest_image_copy: bytes of the largest uint8 array that is only laid
            out anew, as stored images should not be.
    """

    flops: float
    hbm_bytes: float
    kernels: int
    cycles: int | None
    collectives: dict[str, Count]
    loops: tuple[Loop, ...]
    largest_image_copy: int

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **self._asdict(),
            'collectives': {
                kind: each._asdict() for kind, each in self.collectives.items()
            },
            'loops': [loop._asdict() for loop in self.loops],
        }


def cost(text: str) -> Cost:
    """What one execution of a program costs.

    Args:
        text: HLO text from `Compiled.as_text()`.
    """
    program = parse(text)
    flops = hbm_bytes = 0.0
    kernels = largest_image_copy = 0
    cycles: int | None = None
    loops = []
    lines = list(executed(program))
    for line in lines:
        each, times = line.instruction, line.times
        flops += times * flops_of(each, line.inside)
        if each.op == 'while':
            last = each.source.rpartition('/')[2]
            trips = trip_count(program, each, line.inside)
            by_compiler = bool(last) and last not in _LOOPS_OF_JAX
            loops.append(Loop(trips, times, each.source, by_compiler))
        if line.fused or each.op in _FREE or each.op.endswith('-done'):
            continue
        kernels += times
        hbm_bytes += times * traffic(program, each, line.inside)
        if each.op == 'copy' and each.shape.startswith('u8['):
            size = array_bytes(each.shape)
            largest_image_copy = max(largest_image_copy, size)
        if found := _CYCLES.search(each.attributes):
            cycles = (cycles or 0) + times * int(found[1])
    if cycles is not None and cycles > _MOST_CYCLES:
        cycles = None
    return Cost(
        flops,
        hbm_bytes,
        kernels,
        cycles,
        count_in(lines),
        tuple(loops),
        largest_image_copy,
    )


def collectives(text: str) -> dict[str, Count]:
    """Collectives of one execution of a program, by kind.

    Args:
        text: HLO text from `Compiled.as_text()`.
    """
    return count_in(list(executed(parse(text))))


def count_in(lines: list[Executed]) -> dict[str, Count]:
    """Collectives among executed instructions, by kind."""
    found = {kind: Count(0, 0) for kind in KINDS}
    for line in lines:
        each, times = line.instruction, line.times
        kind = each.op.removesuffix('-start')
        if kind not in KINDS:
            continue
        shape = each.shape
        if each.op.endswith('-start') and kind != 'all-reduce':
            shape = elements(shape)[1]  # (operands, results, ...)
        calls, size = found[kind]
        moved = size + times * array_bytes(shape)
        found[kind] = Count(calls + times, moved)
    return {kind: each for kind, each in found.items() if each.calls}


def executed(program: Program) -> Iterator[Executed]:
    """Every executed instruction with its number of executions."""
    yield from _walk(program, program.entry, 1, False, 0)


def _walk(
    program: Program, name: str, times: int, fused: bool, depth: int
) -> Iterator[Executed]:
    inside = program.computations.get(name)
    if inside is None:
        return
    for each in inside.instructions:
        yield Executed(each, inside, times, fused, depth)
        if each.op in ('async-update', 'async-done'):
            continue
        inner, rounds = fused, 1
        if each.op == 'while':
            trips = trip_count(program, each, inside)
            rounds = 1 if trips is None else trips
        elif each.op not in ('call', 'conditional'):
            inner = True
        called = _CALLED.findall(each.attributes)
        for group in _BRANCHES.findall(each.attributes):
            called += re.findall(r'[\w.-]+', group)
        for other in called:
            is_loop = each.op == 'while'
            yield from _walk(
                program, other, times * rounds, inner, depth + is_loop
            )


def trip_count(
    program: Program, loop: Instruction, inside: Computation
) -> int | None:
    """Rounds of a loop; None if they are not known.

    The condition of a counted loop compares a counter, an element of the
    loop's state that grows by 1, with a constant.
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    called = re.search(r'condition=%?([\w.-]+)', loop.attributes)
    condition = program.computations.get(called[1]) if called else None
    if condition is None:
        return None
    root = condition.root
    compare = root
    if root.op in ('fusion', 'call'):
        compare = program.computations[_CALLED.findall(root.attributes)[0]].root
    direction = re.search(r'direction=(\w+)', compare.attributes)
    if compare.op != 'compare' or direction is None:
        return None
    bounds = [_constant(condition, name) for name in root.operands]
    if direction[1] not in ('LT', 'LE') or bounds.count(None) != 1:
        return None
    counter, bound = root.operands, next(b for b in bounds if b is not None)
    start = _start(condition, counter[bounds.index(None)], loop, inside)
    return max(0, bound - start + (direction[1] == 'LE'))


def _start(
    condition: Computation,
    counter: str,
    loop: Instruction,
    inside: Computation,
) -> int:
    """The counter before the first round; 0 if it is not a constant."""
    element = condition.find(counter)
    while element is not None and element.op in ('copy', 'bitcast'):
        element = condition.find(element.operands[0])
    if element is None or element.op != 'get-tuple-element':
        return 0
    index = int(re.findall(r'index=(\d+)', element.attributes)[-1])
    state = inside.find(loop.operands[0])
    if state is None or state.op != 'tuple':
        return 0
    return _constant(inside, state.operands[index]) or 0


def _constant(inside: Computation, name: str) -> int | None:
    """The value of an integer constant, or of a copy of one."""
    found = inside.find(name)
    while found is not None and found.op in ('copy', 'bitcast'):
        found = inside.find(found.operands[0])
    if found is None or found.op != 'constant':
        return None
    value = re.match(r'constant\((-?\d+)\)', found.attributes)
    return int(value[1]) if value else None


def traffic(program: Program, each: Instruction, inside: Computation) -> float:
    """Bytes of memory that a kernel reads and writes."""
    shapes = [inside.shape(name) for name in each.operands]
    if each.op == 'fusion':
        return _fused_traffic(program, each, shapes)
    if each.op == 'dynamic-slice':
        return 2 * _in_memory(each.shape)
    if each.op == 'dynamic-update-slice':
        return 2 * _in_memory(shapes[1])
    result = each.shape
    if each.op == 'slice-start':  # (operands, result, ...)
        result = elements(result)[1]
        return array_bytes(result) + _in_memory(result)
    if each.op == 'copy-start':  # (result, operand, ...)
        result = elements(result)[0]
    elif each.op.endswith('-start') and each.op != 'all-reduce-start':
        result = elements(result)[1]
    return _in_memory(result) + sum(map(_in_memory, shapes))


def _fused_traffic(
    program: Program, each: Instruction, shapes: list[str]
) -> float:
    """Of operands that a fusion only slices, the slices count."""
    called = _CALLED.findall(each.attributes)
    body = program.computations.get(called[0]) if called else None
    if body is None:
        return _in_memory(each.shape) + sum(map(_in_memory, shapes))
    users = body.users()
    total = 0.0
    for parameter in body.instructions:
        number = re.match(r'parameter\((\d+)\)', parameter.attributes)
        if parameter.op != 'parameter' or number is None:
            continue
        shape = shapes[int(number[1])]
        readers = _readers(users, parameter.name)
        if not _in_memory(shape):
            continue
        if readers and all(
            user.op in ('dynamic-slice', 'gather') for user in readers
        ):
            total += sum(array_bytes(user.shape) for user in readers)
        elif not readers or any(
            user.op != 'dynamic-update-slice' for user in readers
        ):
            total += _in_memory(shape)
    if body.root.op == 'dynamic-update-slice':
        return total + array_bytes(body.shape(body.root.operands[1]))
    return total + _in_memory(each.shape)


def _readers(
    users: dict[str, list[Instruction]], name: str
) -> list[Instruction]:
    """What reads an array, through bitcasts, as its first operand or other."""
    found = []
    for user in users.get(name, []):
        if user.op == 'bitcast':
            found += _readers(users, user.name)
        else:
            found.append(user)
    return found


def _in_memory(shape: str) -> float:
    """Padded bytes of the arrays of a type that lie in the chip's memory."""
    return math.fsum(
        [array_bytes(each, padded=True) for each in _arrays_in_memory(shape)]
    )


def _arrays_in_memory(shape: str) -> list[str]:
    arrays = re.findall(r'\w+\[[\d,]*\](?:\{[^{}]*\})?', shape)
    # S(1) and above are other memories, such as those inside a chip.
    return [each for each in arrays if not re.search(r'S\([1-9]\)', each)]
