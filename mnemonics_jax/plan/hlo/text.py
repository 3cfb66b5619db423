"""Parses the HLO text of a program into instructions."""

import functools
import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.-]+) = (.*)$')
_ARRAY = re.compile(
    r'\b(pred|bf16|f8\w*|[a-z]+\d+)\[([\d,]*)\](?:\{([^{}]*)\})?'
)


class Instruction(NamedTuple):
    """An instruction.

    Attributes:
        name: its name, unique in its computation.
        shape: type of its result, as text.
        op: operation.
        operands: names of its operands.
        attributes: all that follows its type, as text.
        source: the operation of the JAX program that it comes from, or ''.
        is_root: whether it is the result of its computation.
    """

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    attributes: str
    source: str
    is_root: bool


class Computation:
    """The instructions of a computation."""

    def __init__(self, instructions: list[Instruction]) -> None:
        """Keeps the list, which is filled while the text is read."""
        self.instructions = instructions

    @functools.cached_property
    def _by_name(self) -> dict[str, Instruction]:
        return {each.name: each for each in self.instructions}

    def find(self, name: str) -> Instruction | None:
        """The instruction of this name."""
        return self._by_name.get(name)

    def shape(self, name: str) -> str:
        """Type of the result of an instruction; '' if there is none."""
        found = self.find(name)
        return found.shape if found else ''

    @property
    def root(self) -> Instruction:
        """The instruction that gives the result."""
        roots = [each for each in self.instructions if each.is_root]
        return roots[0] if roots else self.instructions[-1]

    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that read the result of another, by its name."""
        found: dict[str, list[Instruction]] = {}
        for each in self.instructions:
            for name in each.operands:
                found.setdefault(name, []).append(each)
        return found


class Program(NamedTuple):
    """A program: its computations, and the name of the one it starts with."""

    entry: str
    computations: dict[str, Computation]


def parse(text: str) -> Program:
    """Parses HLO text, as from `Compiled.as_text()`."""
    entry, found = '', {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if not line.startswith(' '):
            match = _COMPUTATION.match(line)
            if match:
                current = []
                found[match[2]] = Computation(current)
                entry = match[2] if match[1] else entry
            continue
        match = _INSTRUCTION.match(line)
        if match:
            current.append(_instruction(match[2], match[3], bool(match[1])))
    return Program(entry, found)


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    """The instruction `name = text`."""
    end = _closing(text, 0) + 1 if text.startswith('(') else text.find(' ')
    shape, attributes = text[:end], text[end:].lstrip()
    op = attributes.partition('(')[0]
    inner = attributes[len(op) : _closing(attributes, len(op)) + 1]
    source = re.search(r'op_name="([^"]*)"', attributes)
    operands = re.findall(r'%([\w.-]+)', inner)
    return Instruction(
        name,
        shape,
        op,
        tuple(operands),
        attributes,
        source[1] if source else '',
        is_root,
    )


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in '({[') - (text[i] in ')}]')
        if not depth:
            return i
    return len(text) - 1


def elements(shape: str) -> list[str]:
    """Types of the elements of a tuple; of another type, that type."""
    if not shape.startswith('('):
        return [shape]
    found, depth, start = [], 0, 1
    for i, letter in enumerate(shape):
        depth += (letter in '({[') - (letter in ')}]')
        if (letter == ',' and depth == 1) or not depth:
            found.append(shape[start:i].strip())
            start = i + 1
            if not depth:
                break
    return found


def dimensions(shape: str) -> tuple[int, ...]:
    """Sides of the first array of a type."""
    match = _ARRAY.search(shape)
    return tuple(int(s) for s in match[2].split(',') if s) if match else ()


def array_bytes(shape: str, *, padded: bool = False) -> int:
    """Bytes of all arrays of a type.

    Args:
        shape: the type.
        padded: whether the tiles in which TPUs store arrays count in full.
    """
    total = 0
    for kind, sides, layout in _ARRAY.findall(shape):
        bits = 8 if kind == 'pred' else int(re.findall(r'\d+', kind)[0])
        lengths = [int(s) for s in sides.split(',') if s]
        if padded:
            lengths = _padded(lengths, layout)
        total += bits * math.prod(lengths) // 8
    return total


def _padded(lengths: list[int], layout: str) -> list[int]:
    """Sides from major to minor, the last ones rounded up to whole tiles."""
    order, _, rest = layout.partition(':')
    minor_first = [int(i) for i in order.split(',') if i.strip()]
    tile = re.search(r'T\(([\d,]+)\)', rest)
    if len(minor_first) != len(lengths) or tile is None:
        return lengths
    sides = [lengths[i] for i in reversed(minor_first)]
    tiles = [int(s) for s in tile[1].split(',')]
    if len(tiles) > len(sides):
        return lengths
    for i, side in enumerate(tiles, start=len(sides) - len(tiles)):
        sides[i] = -(-sides[i] // side) * side
    return sides
