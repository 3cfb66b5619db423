"""Configuration of studies on images: 20 classes, 10 + 5 x 2.

`--config.data.dir` sets the file of `experiments.images`. The seed of a run
draws its classes, their order and the initial weights.

`small_images.py:all` has all classes of the file, which must be 100: 50 + 5 x
10, as Liu et al. have CIFAR-100, and 30 epochs instead of 20. The network is
that of all studies on images, not the paper's ResNet-32.
"""

from ml_collections import config_dict

from mnemonics_jax.config import default_config


def get_config(classes: str = '20') -> config_dict.ConfigDict:
    if classes not in ('20', 'all'):
        raise ValueError(f'small_images.py:{classes}: must be 20 or all')
    config = default_config()
    config.data.source = 'arrays'
    config.data.dir = 'runs/images/confirm.npz'
    config.data.pad = 4
    config.data.flip = True
    config.data.feed = 'device'
    config.data.subset_classes = 20 if classes == '20' else None
    config.protocol.base_classes = 10 if classes == '20' else 50
    config.protocol.phases = 5
    config.plugins = 'experiments/small_network.py'
    config.backbone.name = 'folded'
    config.weight_transfer = False
    config.train.epochs = 20 if classes == '20' else 30
    config.train.batch_size = 64
    config.train.lr = 0.05
    config.train.schedule = 'cosine'
    config.exemplars.per_class = 2
    config.finetune.epochs = 30
    config.finetune.batch_size = 64
    config.finetune.momentum = 0.9
    config.evaluate.oracle = True
    config.checkpoint.every_seconds = 0.0
    return config
