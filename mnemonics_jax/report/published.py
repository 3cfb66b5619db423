"""The paper's curves, and the names of its data sets.

`published.json` holds the accuracy on all classes seen after each phase,
recovered from the vector paths of the paper's Figure 4.
"""

import functools
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mnemonics_jax.core.text import flatten

PHASES = (5, 10, 25)


class Curve(NamedTuple):
    """A published curve.

    Attributes:
        method: name of the method in the paper.
        accuracy: accuracy in percent after each phase.
        doubtful: whether its mean is not the average in the paper's Table 1,
            but that of the variant without adjustment in Table 2.
    """

    method: str
    accuracy: tuple[float, ...]
    doubtful: bool


@functools.cache
def _content() -> dict[str, Any]:
    file = importlib.resources.files(__package__) / 'published.json'
    return json.loads(file.read_text())


def curves(data: str, phases: int) -> list[Curve]:
    """The curves of a protocol, best first.

    Args:
        data: name of a data set of the paper.
        phases: N, number of phases after phase 0.
    """
    doubts = _content()['doubts'].get(data, {})
    found = [
        Curve(
            entry['method'],
            tuple(entry['accuracy']),
            phases in doubts.get(entry['method'], ()),
        )
        for entry in _content()['curves']
        if (entry['set'], entry['phases']) == (data, phases)
    ]
    return sorted(found, key=lambda curve: -sum(curve.accuracy))


def official_names(data: str) -> tuple[str, ...]:
    """The class names of a data set of the paper, by label."""
    return tuple(_content()['class_names'][data])


def data_name(config: dict[str, Any], class_names: Sequence[str]) -> str:
    """The paper's name of a run's data set, else the run's own name.

    Args:
        config: resolved configuration, as in JSON.
        class_names: names of all classes. Those of CIFAR-100 are CIFAR-100 from
            any source, also with classes added; a folder is ImageNet if all are
            synsets.
    """
    fields = flatten(config)
    name, source = fields.get('data.name'), fields['data.source']
    base = str(name).partition(':')[0].partition('/')[0]
    official = set(official_names('CIFAR-100'))
    if official.issubset(class_names) or (source, base) == ('tfds', 'cifar100'):
        return 'CIFAR-100'
    # Some of the classes, as a run on a subset has them.
    if source == 'cifar' and official.issuperset(class_names):
        return 'CIFAR-100'
    synsets = source == 'folder' and all(map(_is_synset, class_names))
    if synsets or (source == 'tfds' and base == 'imagenet2012'):
        if len(class_names) == 1000:
            return 'ImageNet'
        drawn = 'data.subset_classes', 'data.subset_seed'
        if [fields.get(field) for field in drawn] == [100, 1993]:
            return 'ImageNet-Subset'
    return f'{source}, {name}' if name else source


def _is_synset(name: str) -> bool:
    return len(name) == 9 and name[0] == 'n' and name[1:].isdecimal()
