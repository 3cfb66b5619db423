"""What the JSON files of a run hold, and one line on what one of them lacks.

A form is a rule of a value, `[form]` for a list, or a dict: for each name the
form of its value. A name that ends with '?' may be missing, also in files of
older versions; the name ... stands for all that are not listed.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from mnemonics_jax.core.regular import regular
from mnemonics_jax.core.rules import BOOLEAN, TEXT, Rule, at_least, or_none
from mnemonics_jax.core.text import TITLES, flatten, shortened

Form = Rule | list[Any] | dict[Any, Any]


def _is_square(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list)
        and len(row) == len(value)
        and set(map(type, row)) <= {int}
        for row in value
    )


def _counts(num: int) -> Rule:
    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == num
            and all(COUNT.holds(v) for v in value)
        )

    return Rule(holds, f'a list of {num} integers >= 0', list)


ANY = Rule(lambda v: True, 'anything', object)
COUNT = at_least(0)
NUMBER = Rule(lambda v: type(v) in (int, float), 'a number', float)
MATRIX = Rule(_is_square, 'a square matrix of integers', list)
NUMBERS = {...: NUMBER}

# The fields that are read without the table of all fields.
CONFIG = {
    'backbone.name': TEXT,
    'data.source': TEXT,
    'exemplars.per_class': COUNT,
    'exemplars.storage': TEXT,
    'exemplars.strategy': TEXT,
    'exemplars.total': COUNT,
    'method.name': TEXT,
    'protocol.base_classes': COUNT,
    'protocol.class_order_seed': COUNT,
    'protocol.phases': COUNT,
    'seed': COUNT,
    ...: ANY,
}
PLAN = {
    'classes': [TEXT],
    'bounds': [_counts(2)],
    'image_shape': _counts(3),
    'mean': [NUMBER],
    'std': [NUMBER],
    'largest_class?': COUNT,
    'slot_bytes?': NUMBER,
}
START = {'time?': TEXT, 'resumed?': ANY, 'command?': TEXT}
# `config.json`.
SETUP = {
    'config': {...: ANY},  # Of which `CONFIG` are fields.
    'plan': PLAN,
    'versions?': {...: TEXT},
    'commit?': or_none(TEXT),
    'started?': TEXT,
    'starts?': [START],
    'images?': {
        'train': {...: COUNT},
        'test': {...: COUNT},
        'digest': {...: TEXT},
    },
}
PHASE = {
    'phase': COUNT,
    'num_seen': at_least(1),
    'accuracy': NUMBERS,
    'top5_accuracy?': NUMBERS,
    'old_accuracy?': NUMBERS,
    'new_accuracy?': NUMBERS,
    'confusion': {...: MATRIX},
    'exemplars': {'count': COUNT, 'bytes': COUNT, ...: ANY},
    'seconds': {'total': NUMBER, ...: NUMBER},
    ...: ANY,
}
# `results.json`.
RESULTS = {
    'config': {...: ANY},  # Of which `CONFIG` are fields.
    'complete?': BOOLEAN,
    'class_order': [COUNT],
    'class_names': [TEXT],
    'predictor': TEXT,
    'skipped_images?': [TEXT],
    'phases': [PHASE],
    'average_incremental_accuracy?': NUMBERS,
    'last_accuracy?': NUMBERS,
    'forgetting?': NUMBERS,
    'max_forgetting?': NUMBERS,
    'backward_transfer?': NUMBERS,
    ...: ANY,
}
# A line of `metrics.jsonl`.
RECORD = {'global_step': COUNT, 'phase': COUNT, 'stage': TEXT, ...: NUMBER}


def load(path: pathlib.Path, check: Callable[[Any], None]) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        check: `check_setup` or `check_results`.

    Raises:
        ValueError: it is no JSON, or of another form; the message has no path.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(regular(path).read_text())
    # Also of bytes that are no text; of lists in lists in lists.
    except (ValueError, RecursionError) as e:
        raise ValueError(f'must be JSON ({e})') from e
    check(content)
    return content


def check(value: Any, form: Form, place: str = '') -> None:
    """Checks that a value has a form.

    Args:
        value: from JSON.
        form: what it must be.
        place: where it stands, for the message.

    Raises:
        ValueError: one line such as 'phases[1].phase: must be an integer >= 0,
            not None'.
    """
    if isinstance(form, Rule):
        if not form.holds(value):
            raise _wrong(place, form.must_be(), value)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise _wrong(place, 'a list', value)
        for i, item in enumerate(value):
            check(item, form[0], f'{place}[{i}]')
    else:
        if not isinstance(value, dict):
            raise _wrong(place, 'names with values', value)
        for name in form:
            if name is not ... and not name.endswith('?') and name not in value:
                raise ValueError(f'{_at(place, name)}: missing')
        for name, item in value.items():
            inner = form.get(name) or form.get(f'{name}?') or form.get(...)
            check(item, inner or ANY, _at(place, name))


def check_setup(content: Any) -> None:
    """Checks that this is a `config.json`.

    Raises:
        ValueError: see `check`.
    """
    check(content, SETUP)
    check(flatten(content['config']), CONFIG, 'config')


def check_results(content: Any) -> None:
    """Checks that this is a `results.json` whose parts belong together.

    Raises:
        ValueError: see `check`.
    """
    check(content, RESULTS)
    check(flatten(content['config']), CONFIG, 'config')
    names, order = content['class_names'], content['class_order']
    phases = content['phases']
    if not phases:
        raise ValueError('phases: must be a list of at least one phase')
    if any(k >= len(names) for k in order):
        raise ValueError(f'class_order: must be below {len(names)}')
    classifiers = set(phases[0]['confusion'])
    if content['predictor'] not in classifiers or classifiers - set(TITLES):
        raise ValueError('predictor: must be a classifier of all phases')
    seen = 0
    for i, phase in enumerate(phases):
        before, seen = seen, phase['num_seen']
        if not before <= seen <= len(order):
            raise ValueError(
                f'phases[{i}].num_seen: must be an integer from {before} to '
                f'{len(order)}, not {seen}'
            )
        _check_classifiers(phase, classifiers, f'phases[{i}]')


def _check_classifiers(
    phase: Mapping[str, Any], names: set[str], place: str
) -> None:
    for key in ('accuracy', 'confusion'):
        if set(phase[key]) != names:
            raise ValueError(
                f'{place}.{key}: must have {", ".join(sorted(names))}'
            )
    for name, counts in phase['confusion'].items():
        if len(counts) != phase['num_seen']:
            raise ValueError(
                f'{place}.confusion.{name}: must have {phase["num_seen"]} rows'
            )


def _at(place: str, name: str) -> str:
    return f'{place}.{name}' if place else name


def _wrong(place: str, words: str, value: Any) -> ValueError:
    start = f'{place}: ' if place else ''
    return ValueError(
        f'{start}must be {words}, not {shortened(repr(value), 40)}'
    )
