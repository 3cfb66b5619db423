"""The fields of a configuration: this table is all that declares them.

Those of the sections `data` and `protocol` stand in `data_fields.py`.

An entry has the default, the rule that values must keep, and a line of text.
Checks, presets, flags, `--help` and the tables in the documentation read it; a
new field is a new entry. Files in `configs/` start from `default_config()` and
change it. None stands for the preset's value where the default is `Presets`,
for the method's where it is `ByMethod`, and for "not used" elsewhere.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import config_dict

from mnemonics_jax import methods
from mnemonics_jax.config import choices, data_fields
from mnemonics_jax.config.presets import ByMethod, Presets
from mnemonics_jax.core.rules import (
    BOOLEAN,
    FILES,
    FOLDER,
    INTEGERS,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Field,
    at_least,
    integer,
    number,
    one_of,
    or_none,
)

FIELDS = {
    'seed': Field(0, SEED, 'Seed of everything random but the class order.'),
    'plugins': Field(
        '', FILES, 'Files with a method, strategy, backbone or data source.'
    ),
    **data_fields.FIELDS,
    'steps_per_dispatch': Field(
        None,
        or_none(at_least(1, 4096)),
        'Steps in one program; None: 1 on CPU, up to 32 on accelerators.',
    ),
    'precision': Field(
        'float32',
        choices.PRECISIONS,
        'What a run computes in; bf16: its networks; float64: the whole run.',
    ),
    'weight_transfer': Field(
        None,
        or_none(BOOLEAN),
        'Learns scales of frozen kernels; None: if exemplars are learned, too.',
    ),
    'report': Field(
        True, BOOLEAN, 'Draws report.html and figures/ at the end of a run.'
    ),
    'log.to': Field(
        'tensorboard',
        one_of(('tensorboard', 'wandb', 'mlflow')),
        'Where curves and exemplars are shown beside the report.',
    ),
    'backbone.name': Field('convnet', choices.BACKBONES, 'The network.'),
    'backbone.head': Field(
        ByMethod('cosine'), choices.HEADS, 'The classifier.'
    ),
    'backbone.final_relu': Field(
        False,
        BOOLEAN,
        "Features are averages after a ReLU; the paper's may be negative.",
    ),
    'backbone.norm_group': Field(
        0,
        at_least(0, 65_536),
        'Images of a batch that BatchNorm normalises by themselves; 0: all.',
    ),
    'method.name': Field(
        'lucir', choices.METHODS, 'The class-incremental method.'
    ),
    'method.imprint': Field(
        ByMethod(True), BOOLEAN, 'New head rows start as class means.'
    ),
    'method.freeze_old_rows': Field(
        ByMethod(False), BOOLEAN, 'Old head rows are not trained.'
    ),
    'train.base_run': Field(
        None,
        or_none(FOLDER),
        'Run whose model of phase 0 is taken over instead of trained again.',
    ),
    'train.epochs': Field(160, at_least(1, 100_000), 'Epochs in each phase.'),
    'train.batch_size': Field(128, at_least(1, 65_536), 'Images per SGD step.'),
    'train.lr': Field(0.1, POSITIVE, 'Learning rate at the start.'),
    'train.momentum': Field(0.9, number(0, 1), 'Momentum of SGD.'),
    'train.weight_decay': Field(5e-4, NOT_NEGATIVE, 'Weight decay.'),
    'train.schedule': Field(
        ByMethod('step'),
        one_of(('step', 'cosine')),
        'The rate falls by gamma at each milestone, or as half a cosine.',
    ),
    'train.milestones': Field(
        (80, 120),
        INTEGERS,
        'Epochs at which the rate falls: rising, below epochs.',
    ),
    'train.gamma': Field(0.1, POSITIVE, 'Factor of the rate at a milestone.'),
    'exemplars.strategy': Field(
        'mnemonics',
        choices.STRATEGIES,
        'How exemplars are chosen, and whether they are learned.',
    ),
    'exemplars.preset': Field(
        'tuned', one_of(Presets._fields), 'Fills the fields that are not set.'
    ),
    'exemplars.per_class': Field(
        20,
        at_least(0, 10**6),
        'Exemplars of each class; 0 if another budget is set.',
    ),
    'exemplars.total': Field(
        0, at_least(0, 10**9), 'Exemplars of all classes, or 0.'
    ),
    'exemplars.bytes_per_class': Field(
        0, at_least(0, 10**13), 'Bytes of the exemplars of each class, or 0.'
    ),
    'exemplars.bytes_total': Field(
        0, at_least(0, 10**13), 'Bytes of the exemplars of all classes, or 0.'
    ),
    'exemplars.storage': Field(
        Presets(paper='uint8', bilevel='uint8', tuned='uint8', compact='jpeg'),
        choices.STORAGES,
        'Arrays of pixels, or the codec that compresses exemplars.',
    ),
    'exemplars.quality': Field(
        50, integer(1, 100), 'Quality of jpeg and webp.'
    ),
    'exemplars.subsampling': Field(
        '4:2:0',
        one_of(('4:2:0', '4:4:4')),
        'Colours of jpeg at half the resolution, or at the full one.',
    ),
    'exemplars.adjust': Field(
        Presets(paper=True, bilevel=False, tuned=False),
        BOOLEAN,
        'Adjusts old exemplars in each phase.',
    ),
    'exemplars.init': Field(
        Presets(paper='random', bilevel='herding', tuned='herding'),
        choices.INITS,
        'Real images that learning starts from.',
    ),
    'exemplars.outer_epochs': Field(
        Presets(paper=50, bilevel=0, tuned=0),
        at_least(0, 100_000),
        'Passes over the real images; 0 if outer_steps is set.',
    ),
    'exemplars.outer_steps': Field(
        Presets(paper=0, bilevel=150, tuned=150),
        at_least(0, 10**6),
        'Outer steps; 0 if outer_epochs is set.',
    ),
    'exemplars.outer_optimizer': Field(
        Presets(paper='sgd', bilevel='adam', tuned='adam'),
        one_of(('sgd', 'adam')),
        'Optimizer of the pixels.',
    ),
    # In units of normalised pixels, which is the space the paper's and the
    # authors' numbers refer to.
    'exemplars.outer_lr': Field(
        Presets(paper=0.01, bilevel=0.02, tuned=0.02),
        POSITIVE,
        'Learning rate of the pixels, in standard deviations of the data.',
    ),
    # The query of an adjustment is half a memory: more steps overfit it.
    'exemplars.adjust_steps': Field(
        Presets(paper=0, bilevel=40, tuned=40),
        at_least(0, 10**6),
        'Outer steps of adjustment; 0: outer_epochs passes.',
    ),
    'exemplars.adjust_lr': Field(
        Presets(paper=0.01, bilevel=0.005, tuned=0.005),
        POSITIVE,
        'Learning rate of adjustment, as outer_lr.',
    ),
    'exemplars.inner_steps': Field(
        Presets(paper=5, bilevel=20, tuned=20),
        at_least(1, 4096),
        'SGD steps of the temporary model.',
    ),
    'exemplars.inner_lr': Field(
        Presets(paper=0.01, bilevel=3.0, tuned=3.0),
        POSITIVE,
        'Learning rate of inner steps.',
    ),
    'exemplars.inner_batch': Field(
        Presets(paper=128, bilevel=0, tuned=0),
        at_least(0, 65_536),
        'Exemplars per inner step; 0: all.',
    ),
    'exemplars.inner_scope': Field(
        Presets(paper='all', bilevel='head', tuned='head'),
        one_of(('all', 'head')),
        'What inner steps train.',
    ),
    'exemplars.inner_start': Field(
        Presets(paper='current', bilevel='redraw', tuned='redraw'),
        one_of(('current', 'redraw')),
        'The temporary model at first: the model, or new head rows redrawn.',
    ),
    'exemplars.query_batch': Field(
        Presets(paper=128, bilevel=128, tuned=128),
        at_least(1, 65_536),
        'Query images per outer step.',
    ),
    'exemplars.objective': Field(
        Presets(paper='unroll', bilevel='unroll', tuned='unroll+means'),
        choices.OBJECTIVES,
        "What pixels are learned by; unroll is the paper's bilevel problem.",
    ),
    'exemplars.means_weight': Field(
        Presets(paper=50.0, bilevel=50.0, tuned=50.0),
        NOT_NEGATIVE,
        'Weight of means as the second term of objective.',
    ),
    'exemplars.inner_augment': Field(
        Presets(paper=False, bilevel=False, tuned=True),
        BOOLEAN,
        'Augments exemplars in inner steps.',
    ),
    'exemplars.hypergradient': Field(
        'unroll',
        choices.HYPERGRADIENTS,
        'How inner steps are differentiated; unroll is exact.',
    ),
    'exemplars.hypergradient_terms': Field(
        10, at_least(1, 4096), 'Terms of a hypergradient other than unroll.'
    ),
    'exemplars.microbatch': Field(
        None,
        or_none(at_least(1, 65_536)),
        'Images at once while exemplars are learned; None: a minibatch.',
    ),
    'finetune.epochs': Field(
        ByMethod(50),
        at_least(1, 100_000),
        'Epochs of fine-tuning a copy on all exemplars.',
    ),
    'finetune.batch_size': Field(
        128, at_least(1, 65_536), 'Exemplars per SGD step.'
    ),
    'finetune.lr': Field(ByMethod(0.01), POSITIVE, 'Learning rate.'),
    'finetune.momentum': Field(ByMethod(0.0), number(0, 1), 'Momentum of SGD.'),
    'finetune.scope': Field(
        ByMethod('all'), one_of(('all', 'head')), 'What fine-tuning trains.'
    ),
    'finetune.carry': Field(
        ByMethod(False),
        BOOLEAN,
        'The next phase starts from the fine-tuned copy.',
    ),
    'evaluate.batch_size': Field(256, at_least(1, 65_536), 'Images per batch.'),
    'evaluate.oracle': Field(
        False, BOOLEAN, 'Means of all training images classify, too: a ceiling.'
    ),
    'checkpoint.keep': Field(
        2, at_least(1, 10**6), 'Newest checkpoints to keep.'
    ),
    'checkpoint.every_steps': Field(
        0,
        at_least(0, 10**9),
        'Steps between checkpoints within a phase; 0: none.',
    ),
    'checkpoint.every_seconds': Field(
        300.0,
        NOT_NEGATIVE,
        'Seconds between checkpoints within a phase; 0: none.',
    ),
    'checkpoint.on_changed_lr': Field(
        'stop',
        one_of(('stop', 'restart_phase')),
        'What to do if learning rates are others than in the phase before.',
    ),
}


def with_settings(names: Iterable[str]) -> dict[str, Field]:
    """All fields, with the settings of these methods.

    Args:
        names: some of `methods.method_names()`.

    Returns:
        Dotted name -> field.
    """
    settings = {
        f'method.{name}.{setting}': field
        for name in names
        for setting, field in methods.settings_of(name).items()
    }
    return {**FIELDS, **settings}


def preset(name: str) -> dict[str, Any]:
    """The fields of `exemplars` that a preset fills in, and their values."""
    return {
        field.removeprefix('exemplars.'): entry.default.value(name)
        for field, entry in FIELDS.items()
        if isinstance(entry.default, Presets)
    }


def default_config() -> config_dict.ConfigDict:
    """The fields and their defaults, for small images.

    Example:
        >>> from mnemonics_jax import default_config
        >>> config = default_config()
        >>> config.exemplars.per_class = 5
        >>> config.data.source, config.exemplars.per_class
        ('digits', 5)
    """
    tree: dict[str, Any] = {}
    for name, (default, rule, _) in FIELDS.items():
        *sections, last = name.split('.')
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        unset = default is None or isinstance(default, ByMethod | Presets)
        # A placeholder has the type that a flag is read as.
        node[last] = config_dict.placeholder(rule.kind) if unset else default
    # Each method's own settings, as in method.lucir.margin.
    tree['method'].update(methods.default_settings())
    # A field that does not exist is a mistake in a file, too.
    return config_dict.ConfigDict(tree).lock()
