"""Performance targets and whether the measurements reach them."""

from collections.abc import Mapping
from typing import Any

NOT_HERE = 'not measured here'
# Load average per core before the measurement above which comparisons with a
# peer are invalid, since other processes slow the two unequally.
BUSY = 0.25
# Most times the peer, by kind of work, on CPU.
MOST_TIMES_PEER = {
    'model step': 1.5,
    'exemplar step': 0.8,
    'evaluation': 1.0,
    'feed': 1.0,
}
# Most seconds of configs/digits.py on CPU: of cold and of warm caches.
FIRST_STEP_SECONDS = (5.0, 2.5)
RUN_SECONDS = (20.0, 10.0)
LEAST_IMAGES = 100_000
LEAST_TIMES_FASTER = 3.0
PROTOCOL_SECONDS = 15 * 60
HERDING_SECONDS = 60
HERDING_SHAPE = [1000, 1300, 512]
MOST_GROWTH = 0.1
QUICK_SECONDS = 10 * 60


def rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of targets: 'target', 'measured' (text), 'holds' (None if unknown).

    Args:
        report: 'platform', 'quick', 'all_parts', 'seconds', 'cores',
            'load_average' before and after, and 'parts' by name.
    """
    parts = report['parts']
    on_cpu = report['platform'] == 'cpu'
    is_busy = report['load_average'][0] > BUSY * report['cores']
    is_whole = report['quick'] and report['all_parts']
    return [
        *_on_cpu(parts, on_cpu, is_busy),
        _images_a_second(parts, on_cpu),
        _exemplars_beside_peer(parts, on_cpu),
        _below(
            'accelerator: the whole CIFAR-size protocol under 15 minutes',
            None if on_cpu else _figure(parts, 'protocol', 'seconds'),
            PROTOCOL_SECONDS,
        ),
        _temporaries(parts),
        _herding(parts),
        _below(
            '`python -m benchmarks.run --quick` under 10 minutes',
            report['seconds'] if is_whole else None,
            QUICK_SECONDS,
        ),
    ]


def _row(target: str, measured: str | None, holds: bool) -> dict[str, Any]:
    if measured is None:
        return {'target': target, 'measured': NOT_HERE, 'holds': None}
    return {'target': target, 'measured': measured, 'holds': bool(holds)}


def _below(target: str, seconds: float | None, most: float) -> dict[str, Any]:
    if seconds is None:
        return _row(target, None, False)
    return _row(target, f'{seconds:.3g} s', seconds < most)


def _figure(parts: Mapping[str, Any], part: str, name: str) -> Any:
    return parts.get(part, {}).get(name)


def _rows_of(parts: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """Rows of a part that have a peer; of inner steps on all parameters."""
    found = _figure(parts, part, 'rows') or []
    return [
        row
        for row in found
        if row['ratio'] is not None and row.get('scope', 'all') == 'all'
    ]


def _on_cpu(
    parts: Mapping[str, Any], on_cpu: bool, is_busy: bool
) -> list[dict[str, Any]]:
    found = []
    for part, most in MOST_TIMES_PEER.items():
        target = f'CPU: {part} at most {most} times PyTorch'
        rows = _rows_of(parts, part) if on_cpu else []
        if part == 'model step':
            target += ', each core a device'
            rows = rows[-1:]
        ratios = [row['ratio'] for row in rows]
        text = ', '.join(f'{ratio:.2f}' for ratio in ratios)
        holds = all(ratio <= most for ratio in ratios)
        found.append(_row(target, f'{text} times' if rows else None, holds))
    for name, key, most_seconds in (
        ('first step', 'first', FIRST_STEP_SECONDS),
        ('whole run', 'whole', RUN_SECONDS),
    ):
        cold, warm = most_seconds
        target = (
            f'CPU: {name} of configs/digits.py at most {cold:g} s with a cold '
            f'cache, {warm:g} s with a warm one'
        )
        seconds = _figure(parts, 'run', key) if on_cpu else None
        if seconds is None:
            found.append(_row(target, None, False))
            continue
        pair = [seconds['cold'], seconds['warm']]
        text = f'{pair[0]:.3g} s, {pair[1]:.3g} s'
        holds = all(s <= m for s, m in zip(pair, most_seconds, strict=True))
        found.append(_row(target, text, holds))
    return [_unjudged(row) if is_busy else row for row in found]


def _unjudged(row: dict[str, Any]) -> dict[str, Any]:
    """A target on cores that other processes use."""
    if row['holds'] is None:
        return row
    text = f'{row["measured"]}, on busy cores: not to be judged'
    return {**row, 'measured': text, 'holds': None}


def _images_a_second(parts: Mapping[str, Any], on_cpu: bool) -> dict[str, Any]:
    target = 'accelerator: model steps on 100,000 images/s, batch 128 to 1024'
    figures = _figure(parts, 'model step', 'figures')
    if on_cpu or not figures:
        return _row(target, None, False)
    best: dict[int, float] = {}
    for each in figures:
        rate = each['images_per_second']
        best[each['batch']] = max(rate, best.get(each['batch'], 0))
    text = ', '.join(f'{rate:,.0f} at {batch}' for batch, rate in best.items())
    enough = all(rate >= LEAST_IMAGES for rate in best.values())
    return _row(target, text, enough and {128, 1024} <= set(best))


def _exemplars_beside_peer(
    parts: Mapping[str, Any], on_cpu: bool
) -> dict[str, Any]:
    target = 'accelerator: exemplar steps at least 3 times as fast as PyTorch'
    found = _rows_of(parts, 'exemplar step')
    if on_cpu or not found:
        return _row(target, None, False)
    text = ', '.join(
        f'{1 / row["ratio"]:.2f} times at K = {row["inner"]}' for row in found
    )
    fastest = all(1 / row['ratio'] >= LEAST_TIMES_FASTER for row in found)
    return _row(target, text, fastest)


def _temporaries(parts: Mapping[str, Any]) -> dict[str, Any]:
    target = 'temporary bytes grow by at most 10 % from K = 4 to K = 16'
    growth = _figure(parts, 'temporaries', 'growth')
    if growth is None:
        return _row(target, None, False)
    return _row(target, f'{100 * growth:+.1f} %', growth <= MOST_GROWTH)


def _herding(parts: Mapping[str, Any]) -> dict[str, Any]:
    target = 'herding of 1,000 x 1,300 x 512 features in one call under 60 s'
    shape = _figure(parts, 'herding', 'shape')
    seconds = _figure(parts, 'herding', 'seconds_with_compiling')
    return _below(
        target, seconds if shape == HERDING_SHAPE else None, HERDING_SECONDS
    )
