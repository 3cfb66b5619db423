"""Floating-point operations of an instruction: convolutions and products."""

import math
import re

from mnemonics_jax.plan.hlo.text import (
    Computation,
    Instruction,
    dimensions,
    elements,
)


def flops_of(each: Instruction, inside: Computation) -> float:
    """Operations of an instruction, 2 for a product and its sum; else 0.

    Products with zeros of padding and dilation do not count. Calls of cuDNN
    and cuBLAS count as what they compute.
    """
    if each.op == 'dot':
        return _product(each, inside)
    if each.op == 'convolution':
        lhs, rhs = (dimensions(inside.shape(n)) for n in each.operands[:2])
        return _convolution(each, lhs, rhs, dimensions(each.shape))
    target = re.search(r'custom_call_target="([^"]*)"', each.attributes)
    if each.op != 'custom-call' or target is None:
        return 0
    if target[1].startswith('__cublas'):
        return _product(each, inside)
    if target[1].startswith('__cudnn$conv'):
        # (input, kernel, output) of the convolution that it belongs to.
        first, second = (dimensions(inside.shape(n)) for n in each.operands[:2])
        result = dimensions(elements(each.shape)[0])
        sides = {
            '__cudnn$convBackwardInput': (result, second, first),
            '__cudnn$convBackwardFilter': (first, result, second),
        }.get(target[1], (first, second, result))
        return _convolution(each, *sides)
    return 0


def _product(each: Instruction, inside: Computation) -> float:
    lhs = dimensions(inside.shape(each.operands[0]))
    contracted = re.search(
        r'lhs_contracting_dim(?:ension)?s"?[=:][\[{]([\d,"]*)', each.attributes
    )
    axes = re.findall(r'\d+', contracted[1]) if contracted else []
    result = dimensions(elements(each.shape)[0])
    return 2 * math.prod(result) * math.prod(lhs[int(i)] for i in axes)


def _convolution(
    each: Instruction,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    output: tuple[int, ...],
) -> float:
    """Operations of a convolution by its window and the order of its axes."""
    labels = re.search(
        r'dim_labels=([\w?]+)_([\w?]+)->([\w?]+)', each.attributes
    )
    if labels is None:
        return 0
    window = re.search(r'window=\{([^}]*)\}', each.attributes)
    fields = dict(re.findall(r'(\w+)=(\S+)', window[1])) if window else {}
    axes = [letter for letter in labels[1] if letter.isdigit()]

    def numbers(name: str) -> list[int]:
        given = fields.get(name)
        return [int(n) for n in given.split('x')] if given else [1] * len(axes)

    pads = fields.get('pad', 'x'.join(['0_0'] * len(axes))).split('x')
    taps = 1
    for i, axis in enumerate(axes):
        taps *= _taps(
            output[labels[3].index(axis)],
            image[labels[1].index(axis)],
            numbers('size')[i],
            numbers('stride')[i],
            int(pads[i].partition('_')[0]),
            (numbers('lhs_dilate')[i], numbers('rhs_dilate')[i]),
        )
    channels = kernel[labels[2].index('i')]
    features = output[labels[3].index('f')]
    batch = output[labels[3].index('b')]
    return 2 * batch * features * channels * taps


def _taps(
    outputs: int,
    inputs: int,
    size: int,
    stride: int,
    pad: int,
    dilations: tuple[int, int],
) -> int:
    """Pairs of an output and a tap of the kernel that meet an input."""
    image, kernel = dilations
    places = (
        j * stride + k * kernel - pad
        for k in range(size)
        for j in range(outputs)
    )
    return sum(p % image == 0 and 0 <= p // image < inputs for p in places)
