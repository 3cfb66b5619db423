"""The paper's protocol, and how a run differs from it.

`_PROPERTIES` is all that is compared; a new property is a new entry. What the
paper leaves open, such as minibatches of fine-tuning, is not compared.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from mnemonics_jax.core.text import flatten
from mnemonics_jax.report import published, run_protocol
from mnemonics_jax.report.run_protocol import Case

_DATA = ('CIFAR-100', 'ImageNet-Subset', 'ImageNet')

# (method, strategy of its exemplars) -> its curve.
_CURVES = {
    ('lucir', 'mnemonics'): 'LUCIR w/ mnemonics',
    ('lucir', 'herding'): 'LUCIR',
    ('bic', 'herding'): 'BiC',
    ('icarl', 'herding'): 'iCaRL',
    ('lwf', 'herding'): 'LwF + herding exemplars',
}
# Trains on all images, so that its exemplars do not matter.
_JOINT = 'joint training (upper bound)'

# Settings of the methods, by their papers and the authors' code.
_DISTILLATION: dict[str, Any] = {'distill_weight': 1, 'temperature': 2}
_SETTINGS: dict[str, dict[str, Any]] = {
    'lucir': {'margin': 0.5, 'margin_weight': 1, 'top_k': 2},
    'icarl': _DISTILLATION,
    'lwf': _DISTILLATION,
    'bic': {'holdout': 0.1, 'ridge': 0, 'temperature': 2},
}
# Of their heads, by the authors' code, as fields of `method`.
_ROWS = {'imprint': True, 'freeze_old_rows': True}
_ROWS_OF = ('lucir', 'icarl', 'lwf')
# What the paper says of learning exemplars, as fields of `exemplars`.
_LEARNING = {
    'init': 'random',
    'objective': 'unroll',
    'hypergradient': 'unroll',
    'outer_optimizer': 'sgd',
    'outer_lr': 0.01,
    'outer_epochs': 50,
    'adjust_lr': 0.01,
    'adjust_steps': 0,
    'inner_lr': 0.01,
    'inner_scope': 'all',
    'inner_augment': False,
}
# And of fine-tuning before the test, as fields of `finetune`.
_FINETUNING = {'epochs': 50, 'lr': 0.01, 'momentum': 0, 'scope': 'all'}


class Difference(NamedTuple):
    """A property of the protocol, in a run and in the paper."""

    what: str
    run: str
    paper: str


class _Property(NamedTuple):
    """A property that is compared.

    Attributes:
        what: its name in the report.
        run: a field of the configuration, or a function that finds the run's
            value; KeyError: not recorded. Of a dict, the report has the
            entries that differ.
        paper: the paper's value, or a function that finds it; None: nothing to
            compare.
    """

    what: str
    run: str | Callable[[Case], Any]
    paper: Any


def curve_of(method: str, strategy: str) -> str | None:
    """The name of the paper's curve of a method; None if it has none.

    Args:
        method: name of a method.
        strategy: strategy of its exemplars.
    """
    return _JOINT if method == 'joint' else _CURVES.get((method, strategy))


def differences(results: dict[str, Any]) -> list[Difference]:
    """How a run differs from the protocol of the paper's curves; [] if not.

    A data set that is not in the paper is compared with CIFAR-100.

    Args:
        results: content of `results.json`. What that of an older run does not
            record is a difference.
    """
    names = list(map(str, results['class_names']))
    fields = flatten(results['config'])
    name = published.data_name(results['config'], names)
    data = name if name in _DATA else _DATA[0]
    curve = curve_of(fields['method.name'], fields['exemplars.strategy'])
    case = Case(results, fields, name, data, curve)
    compared = (_compared(case, *known) for known in _PROPERTIES)
    return [found for found in compared if found is not None]


def _compared(case: Case, what: str, run: Any, paper: Any) -> Difference | None:
    """How a run differs in one property; None if it does not."""
    paper = paper(case) if callable(paper) else paper
    if paper is None:
        return None
    try:
        run = run(case) if callable(run) else case.fields[run]
    except (KeyError, TypeError):
        run = run_protocol.NOT_RECORDED
    if run == paper:
        return None
    if isinstance(run, dict):
        differing = [name for name in paper if run[name] != paper[name]]
        run, paper = ({n: side[n] for n in differing} for side in (run, paper))
    return Difference(what, _text(run), _text(paper))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {_text(v)}' for name, v in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return f'{value:,}' if isinstance(value, int) else str(value)


def _settings(case: Case) -> dict[str, Any]:
    names = _SETTINGS[case.method]
    return run_protocol.entries(f'method.{case.method}', names)(case)


def _by_data(*values: Any) -> Callable[[Case], Any]:
    """A value for each data set."""
    return lambda case: values[_DATA.index(case.data)]


def _if_remembers(value: Any) -> Callable[[Case], Any]:
    return lambda case: value if case.remembers else None


def _if_learns(value: Any) -> Callable[[Case], Any]:
    return lambda case: value if case.learns else None


def _papers_size(case: Case) -> int | None:
    """Open if images are not resized: data set and bytes say their size."""
    if case.fields.get('data.image_size', 0) is None:
        return None
    return _by_data(32, 224, 224)(case)


def _papers_phases(case: Case) -> int | str:
    num = case.fields['protocol.phases']
    few = published.PHASES
    return num if num in few else ' or '.join(map(str, few))


def _papers_transfer(case: Case) -> bool | None:
    """Belongs to learned exemplars; open where the paper has no curve."""
    return case.learns if case.learns or case.curve else None


def _papers_head(case: Case) -> str | None:
    if not case.curve:
        return None
    return 'linear' if case.method == 'bic' else 'cosine'


def _papers_lambda(case: Case) -> int | None:
    return _by_data(5, 10, 10)(case) if case.method == 'lucir' else None


def _papers_constants(case: Case) -> dict[str, Any] | None:
    """Other presets differ in most of them, so that their name says enough."""
    preset = case.fields.get('exemplars.preset')
    return _LEARNING if case.learns and preset == 'paper' else None


def _papers_carry(case: Case) -> bool | None:
    """Open for learned exemplars; other methods are not fine-tuned."""
    return None if case.learns or not case.remembers else False


_PROPERTIES = (
    _Property(
        'data set',
        lambda case: case.name,
        lambda case: case.name if case.name in _DATA else ', '.join(_DATA),
    ),
    _Property(
        'classes',
        lambda case: len(case.results['class_names']),
        _by_data(100, 100, 1000),
    ),
    _Property(
        'training images a class',
        run_protocol.train_images,
        _by_data(500, 'about 1,300', 'about 1,300'),
    ),
    _Property(
        'test images a class', run_protocol.test_images, _by_data(100, 50, 50)
    ),
    _Property(
        'skipped images', lambda case: len(case.results['skipped_images']), 0
    ),
    _Property(
        'classes of phase 0', 'protocol.base_classes', _by_data(50, 50, 500)
    ),
    _Property('phases after it (N)', 'protocol.phases', _papers_phases),
    _Property('classes of these phases', run_protocol.later_sizes, 'equal'),
    _Property('class order', run_protocol.arrival, f'seed {run_protocol.SEED}'),
    _Property(
        'method',
        run_protocol.method_in_words,
        lambda case: case.curve or ', '.join([*_CURVES.values(), _JOINT]),
    ),
    _Property(
        'settings of the method',
        _settings,
        lambda case: _SETTINGS.get(case.method),
    ),
    _Property(
        'head rows',
        run_protocol.entries('method', _ROWS),
        lambda case: _ROWS if case.method in _ROWS_OF else None,
    ),
    _Property('lambda_base', 'method.lucir.lambda_base', _papers_lambda),
    _Property(
        'backbone', 'backbone.name', _by_data('resnet32', *['resnet18'] * 2)
    ),
    _Property('classifier', 'backbone.head', _papers_head),
    _Property('final ReLU', 'backbone.final_relu', False),
    _Property('images of a BatchNorm', 'backbone.norm_group', 0),
    _Property('weight transfer', 'weight_transfer', _papers_transfer),
    _Property('precision', 'precision', 'float32'),
    _Property('image size', 'data.image_size', _papers_size),
    _Property(
        'test images',
        run_protocol.evaluated,
        _by_data('whole images', *['central crop, shorter side 256'] * 2),
    ),
    _Property(
        'augmentation',
        run_protocol.augmentation,
        _by_data('pad 4, flip', *['random resized crop, flip'] * 2),
    ),
    _Property('epochs', 'train.epochs', _by_data(160, 90, 90)),
    _Property('batch size', 'train.batch_size', 128),
    _Property('learning rate', 'train.lr', 0.1),
    _Property(
        'schedule',
        run_protocol.schedule,
        _by_data('times 0.1 after 80, 120', *['times 0.1 after 30, 60'] * 2),
    ),
    _Property('momentum', 'train.momentum', 0.9),
    _Property('weight decay', 'train.weight_decay', 0.0005),
    _Property(
        'exemplars',
        run_protocol.budget,
        lambda case: None if case.method == 'joint' else '20 per class',
    ),
    _Property('storage', 'exemplars.storage', _if_remembers('uint8')),
    _Property(
        'bytes of exemplars a class',
        run_protocol.bytes_a_class,
        lambda case: (
            _by_data(61_440, 3_010_560, 3_010_560)(case)
            if case.remembers
            else None
        ),
    ),
    _Property('preset', 'exemplars.preset', _if_learns('paper')),
    _Property(
        'exemplar learning',
        run_protocol.entries('exemplars', _LEARNING),
        _papers_constants,
    ),
    _Property(
        'adjustment',
        'exemplars.adjust',
        lambda case: _papers_transfer(case) if case.remembers else None,
    ),
    _Property(
        'fine-tuning',
        run_protocol.entries('finetune', _FINETUNING),
        _if_learns(_FINETUNING),
    ),
    _Property(
        'model of phase 0',
        lambda case: case.fields.get('train.base_run') or 'trained here',
        'trained here',
    ),
    _Property('fine-tuned copy goes on', 'finetune.carry', _papers_carry),
)
