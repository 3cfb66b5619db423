"""Names and numbers as text."""

import math
from typing import Any

# Classifiers of every run, with their titles.
CLASSIFIERS = {'cnn': 'CNN', 'nme': 'NME', 'finetuned': 'fine-tuned'}
# Those of any run: `evaluate.oracle` adds one.
TITLES = {**CLASSIFIERS, 'oracle': 'oracle'}
NOTHING = '\N{EN DASH}'
ELLIPSIS = '\N{HORIZONTAL ELLIPSIS}'


def percent(fraction: float | None) -> str:
    """A fraction in percent with one decimal; 'n/a' for NaN and None."""
    if fraction is None or math.isnan(fraction):
        return 'n/a'
    return f'{100 * fraction:.1f}'


def num_bytes(count: int) -> str:
    """A number of bytes in at most nine characters: '1,280', '3.01 GB'."""
    if count < 10_000_000:
        return f'{count:,}'
    units = {'MB': 10**6, 'GB': 10**9, 'TB': 10**12}
    unit = next((u for u in units if count < 1000 * units[u]), 'TB')
    return f'{count / units[unit]:.3g} {unit}'


def duration(seconds: float) -> str:
    """'90 s', '12 min' or '3.5 h'."""
    if seconds < 120:
        return f'{seconds:.0f} s'
    if seconds < 120 * 60:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.3g} h'


def shortened(name: str, most: int = 18) -> str:
    """A name cut to `most` characters."""
    return name if len(name) <= most else name[: most - 1] + ELLIPSIS


def counted(count: int, noun: str) -> str:
    """'1 phase', '2 phases', '1,000 classes'."""
    ending = 'es' if noun.endswith('s') else 's'
    return f'{count:,} {noun}{ending * (count != 1)}'


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
    """Nested fields as {'a.b': value}."""
    if not isinstance(config, dict):
        return {prefix: config}
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flatten(value, f'{prefix}.{name}' if prefix else name)
    return found
