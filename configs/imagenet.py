"""ImageNet by the protocol of Liu et al. (2020): 500 + N x (500 / N) classes.

    python -m mnemonics_jax.main --config=configs/imagenet.py:phases=5 \
        --config.data.dir=/data/imagenet --workdir=runs/imagenet

The directory has train/<synset>/*.JPEG and validation/<synset>/*.JPEG (or
val/). With `source=tfds` it is the TFDS directory of imagenet2012, prepared as
array_record files. Both need TensorFlow, whose pipelines crop the originals:
the extra tfds, as in pip install 'mnemonics-jax[tfds]'.

Arguments follow the colon, separated by commas:
    phases      5 (default), 10 or 25
    method      lucir (default), icarl, lwf, bic, wa, podnet, finetune, joint
    exemplars   mnemonics (default), herding, random or none
    adjust      true or false; the default depends on the preset
    preset      tuned (default), bilevel, or paper (its literal constants)
    transfer    true or false; default: true with learned exemplars, as in the
                paper's rows "w/ ours", but never for joint
    source      folder (default) or tfds

ResNet-18, random crops of 224 pixels and flips, 90 epochs per phase, SGD with
learning rate 0.1, divided by 10 after 30 and 60 epochs, 20 exemplars per class;
evaluated on central crops of 224 pixels from a shorter side of 256. Published
results of LUCIR w/ mnemonics, in percent:
    average incremental accuracy   N=5    N=10   N=25
    CVPR 2020, Table 1             66.15  63.12  63.08
    arXiv v6 (2021)                64.54  63.01  61.00
Later papers cite v6. The memory of 20,000 uint8 images takes 3 GB per device.
"""

from mnemonics_jax.config import apply_arguments, default_config, set_imagenet


def get_config(text=''):
    config = default_config()
    arguments = apply_arguments(config, text, source='folder')
    set_imagenet(config, arguments['source'])
    config.protocol.base_classes = 500
    return config
