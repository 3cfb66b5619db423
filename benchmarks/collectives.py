"""Counts the collectives of a compiled program from its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'collective-permute',
    'all-to-all',
)
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_COLLECTIVE = re.compile(rf' = (.*?) ({"|".join(KINDS)})(?:-start)?\(')
_SHAPE = re.compile(r'\b(pred|bf16|[a-z]\d+)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:calls|to_apply|body)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Count(NamedTuple):
    """Counts of one kind of collective in one execution of a program.

    Attributes:
        calls: number of executions; one may reduce several arrays.
        bytes: bytes of their results on each device.
    """

    calls: int
    bytes: int


def count(text: str) -> dict[str, Count]:
    """Collectives of one execution of a program, by kind.

    A loop body counts by its trip count, once if unknown. All branches count.

    Args:
        text: HLO text from `Compiled.as_text()`.
    """
    entry, computations = _computations(text)
    found = {kind: Count(0, 0) for kind in KINDS}
    for line, times in _executed(computations, entry, 1):
        match = _COLLECTIVE.search(line)
        if match:
            calls, size = found[match[2]]
            moved = size + times * _bytes(match[1])
            found[match[2]] = Count(calls + times, moved)
    return {kind: each for kind, each in found.items() if each.calls}


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
    """Name of the entry computation, and the lines of all computations."""
    entry, found, lines = '', {}, []
    for line in text.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            lines = found.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith(' '):
            lines.append(line)
    return entry, found


def _executed(
    computations: dict[str, list[str]], name: str, times: int
) -> Iterator[tuple[str, int]]:
    """Every executed line with its number of executions."""
    for line in computations.get(name, []):
        yield line, times
        trips = _TRIPS.search(line)
        inner = times * int(trips[1]) if trips else times
        called = _CALLED.findall(line)
        for group in _BRANCHES.findall(line):
            called += re.findall(r'[\w.-]+', group)
        for other in called:
            yield from _executed(computations, other, inner)


def _bytes(shapes: str) -> int:
    """Bytes of all arrays of a result."""
    total = 0
    for kind, sides in _SHAPE.findall(shapes):
        bits = 8 if kind == 'pred' else int(re.search(r'\d+', kind)[0])
        total += bits // 8 * math.prod(int(s) for s in sides.split(',') if s)
    return total
