"""Properties of a run, as text that is compared with the paper's protocol."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mnemonics_jax.data.class_order import class_order

NOT_RECORDED = 'not recorded'
# Seed of the paper's class order.
SEED = 1993


class Case(NamedTuple):
    """A run, and the part of the paper that it is compared with.

    Attributes:
        results: content of `results.json`.
        fields: resolved configuration, `{'a.b': value}`.
        name: name of the run's data set.
        data: data set of the paper.
        curve: curve of the paper; None if it has none of this method.
    """

    results: dict[str, Any]
    fields: dict[str, Any]
    name: str
    data: str
    curve: str | None

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.fields['method.name']

    @property
    def strategy(self) -> str:
        """Strategy of its exemplars."""
        return self.fields['exemplars.strategy']

    @property
    def remembers(self) -> bool:
        """Whether its accuracy depends on exemplars."""
        return self.strategy != 'none' and self.method != 'joint'

    @property
    def learns(self) -> bool:
        """Whether these are the paper's."""
        return self.strategy == 'mnemonics' and self.remembers


def _range(values: Iterable[int]) -> int | str:
    """The value, or from the least to the greatest."""
    known = sorted(set(values))
    if len(known) == 1:
        return known[0]
    return f'{known[0]:,} to {known[-1]:,}'


def later_sizes(case: Case) -> str:
    """Classes of the phases after phase 0: whether they are equally many."""
    sizes = (case.fields.get('protocol.phase_sizes') or ())[1:]
    return 'equal' if len(set(sizes)) < 2 else ', '.join(map(str, sizes))


def train_images(case: Case) -> int | str:
    """Training images of a class; about, where the paper's are unequal."""
    sizes = case.results['train_images_per_class']
    if len(set(sizes)) == 1 and case.data == 'CIFAR-100':
        return sizes[0]
    return f'about {round(sum(sizes) / len(sizes), -2):,.0f}'


def test_images(case: Case) -> int | str:
    """Test images of a class."""
    confusion = case.results['phases'][-1]['confusion']
    return _range(map(sum, confusion[case.results['predictor']]))


def arrival(case: Case) -> str:
    """The class order by what it was made from."""
    order = case.results['class_order']
    if order == class_order(len(order), SEED).tolist():
        return f'seed {SEED}'
    file = case.fields['protocol.class_order_file']
    seed = case.fields['protocol.class_order_seed']
    if file is None:
        return 'another' if seed == SEED else f'seed {seed}'
    return f'file {file}'


def method_in_words(case: Case) -> str:
    """The curve of the method, else its name and its exemplars."""
    kept = 'no' if case.strategy == 'none' else case.strategy
    return case.curve or f'{case.method} with {kept} exemplars'


def evaluated(case: Case) -> str:
    """Test images as the model sees them."""
    side, size = (
        case.fields[f'data.{n}'] for n in ('eval_resize', 'image_size')
    )
    if side in (None, size):
        return 'whole images'
    return f'central crop, shorter side {side}'


def augmentation(case: Case) -> str:
    """Augmentation of training images."""
    pad, brightness = (case.fields[f'data.{n}'] for n in ('pad', 'brightness'))
    steps = {
        f'pad {pad}': pad,
        'random resized crop': case.fields['data.random_resized_crop'],
        'flip': case.fields['data.flip'],
        f'brightness {brightness}': brightness,
    }
    return ', '.join(name for name, used in steps.items() if used) or 'none'


def schedule(case: Case) -> str:
    """How the learning rate falls."""
    if case.fields['train.schedule'] != 'step':
        return case.fields['train.schedule']
    epochs = ', '.join(map(str, case.fields['train.milestones']))
    return f'times {case.fields["train.gamma"]} after {epochs}'


def budget(case: Case) -> str:
    """Size of the memory."""
    if case.strategy == 'none':
        return 'none'
    forms = {
        'per_class': '{} per class',
        'total': '{:,} in total',
        'bytes_per_class': '{:,} bytes per class',
        'bytes_total': '{:,} bytes in total',
    }
    # Runs of older versions lack the budgets in bytes.
    given = {n: case.fields.get(f'exemplars.{n}') for n in forms}
    name = next(n for n, size in given.items() if size)
    return forms[name].format(given[name])


def bytes_a_class(case: Case) -> int | str:
    """Bytes of a class's exemplars, over all phases."""
    phases = case.results['phases']
    return _range(p['exemplars']['bytes'] // p['num_seen'] for p in phases)


def entries(section: str, names: Iterable[str]) -> Callable[[Case], Any]:
    """Reads fields of a section of the configuration."""
    return lambda case: {
        name: case.fields.get(f'{section}.{name}', NOT_RECORDED)
        for name in names
    }
