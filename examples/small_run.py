"""A small run, shared by the examples of this folder."""

import tempfile
from typing import Any

from mnemonics_jax import default_config, run_experiment

FIELDS = {
    'data.feed': 'device',
    'backbone.name': 'convnet_tiny',
    'protocol.base_classes': 4,
    'protocol.phases': 3,
    'train.epochs': 10,
    'train.batch_size': 32,
    'train.milestones': (7,),
    'exemplars.per_class': 5,
    'exemplars.adjust': False,
    'finetune.epochs': 10,
}


def run(**fields: Any) -> None:
    """Runs to the end, and prints average accuracies.

    Args:
        **fields: values of other configuration fields, `__` for the dot.
    """
    config = default_config()
    config.update_from_flattened_dict(FIELDS)
    for name, value in fields.items():
        config.update_from_flattened_dict({name.replace('__', '.'): value})
    with tempfile.TemporaryDirectory() as workdir:
        results = run_experiment(config, workdir)
    for name, value in results['average_incremental_accuracy'].items():
        print(f'average incremental accuracy, {name}: {100 * value:.1f} %')
