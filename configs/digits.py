"""Handwritten digits, 4 + 3 x 2 classes, 5 learned exemplars per class.

    python -m mnemonics_jax.main --config=configs/digits.py \
        --workdir=runs/digits

Needs no download: the 1,797 images of 8x8 pixels are part of scikit-learn. The
run has every stage of the method, but no weight transfer, and momentum in
fine-tuning.
"""

from mnemonics_jax.config import default_config


def get_config():
    config = default_config()
    config.data.source = 'digits'
    config.data.pad = 1
    config.protocol.base_classes = 4
    config.protocol.phases = 3
    config.backbone.name = 'convnet'
    config.weight_transfer = False
    config.train.epochs = 20
    config.train.batch_size = 32
    config.train.lr = 0.05
    config.train.schedule = 'cosine'
    config.exemplars.per_class = 5
    config.exemplars.adjust = True
    config.finetune.epochs = 30
    config.finetune.batch_size = 64
    config.finetune.momentum = 0.9
    return config
