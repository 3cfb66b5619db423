"""Your own images: a folder for each class.

    python -m mnemonics_jax.main --config=configs/folder.py \
        --config.data.dir=/data/flowers --workdir=runs/flowers

The directory has train/<class>/* and validation/<class>/* (or val/, test/):
JPEG, PNG, BMP or GIF files of any size, grey or in colour. All else is read
from it: half of the classes come first, the others in five equal phases, or in
fewer where their number does not divide. Fields to look at first:
    --config.data.image_size=32          the square that images are resized to
    --config.backbone.name=resnet32      resnet18 from 64 pixels or so on
    --config.exemplars.per_class=20      at most what the smallest class has
    --config.protocol.base_classes=10
    --config.protocol.class_order_file=order.txt   class names, one a line
    --config.data.on_bad_image=skip      or stop at the first (fail)

Arguments follow the colon, separated by commas:
    phases      as many equal phases after the first; 0 (default): see above
    method      lucir (default), icarl, lwf, bic, wa, podnet, finetune, joint
    exemplars   mnemonics (default), herding, random or none
    adjust      true, false; by default as the preset says
    preset      tuned (default), bilevel, or paper (its literal constants)
    transfer    true (default, the paper's "w/ ours") or false

With large images, as for ImageNet (random crops are cut from the originals):
    --config.data.image_size=224 --config.data.eval_resize=256
    --config.data.pad=0 --config.data.random_resized_crop=true
    --config.backbone.name=resnet18 --config.train.epochs=90
    --config.train.milestones=30,60

There is no published number to hold this against.
"""

from mnemonics_jax.config import apply_arguments, default_config


def get_config(text=''):
    config = default_config()
    apply_arguments(config, text, phases=0)
    config.data.source = 'folder'
    config.data.image_size = 32
    config.data.pad = 4
    config.data.flip = True
    config.backbone.name = 'resnet32'
    return config
