"""Your own images, one folder per class.

    python -m mnemonics_jax.main --config=configs/folder.py \
        --config.data.dir=/data/flowers --workdir=runs/flowers

The directory, or a zip or tar archive of it, has train/<class>/* and
validation/<class>/* (or val/, test/): JPEG, PNG, WebP, TIFF or other files of
any size, grey or in colour; docs/data.md lists them. By default half of the
classes come first, the others in five equal phases, or in fewer if their number
cannot be divided by five. Fields to set first:
    --config.data.image_size=32          side that images are resized to
    --config.backbone.name=resnet32      resnet18 from about 64 pixels on
    --config.exemplars.per_class=20      a class with fewer keeps all
    --config.protocol.base_classes=10
    --config.protocol.class_order_file=order.txt   class names, one per line
    --config.data.on_bad_image=skip      default: fail at the first bad image

Where there are no test images, or a CSV with the columns file, label in place
of folders for the classes:
    --config.data.test_fraction=0.2 --config.data.labels=labels.csv

Arguments follow the colon, separated by commas:
    phases      equal phases after the first; 0 (default): see above
    method      lucir (default), icarl, lwf, bic, wa, podnet, finetune, joint
    exemplars   mnemonics (default), herding, random or none
    adjust      true or false; the default depends on the preset
    preset      tuned (default), bilevel, or paper (its literal constants)
    transfer    true or false; default: true with learned exemplars, as in the
                paper's rows "w/ ours", but never for joint

For large images, as for ImageNet (random crops of the original images, which
need the extra tfds):
    --config.data.image_size=224 --config.data.eval_resize=256
    --config.data.pad=0 --config.data.random_resized_crop=true
    --config.backbone.name=resnet18 --config.train.epochs=90
    --config.train.milestones=30,60
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
