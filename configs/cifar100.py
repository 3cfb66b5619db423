"""CIFAR-100 by the protocol of Liu et al. (2020): 50 + N x (50 / N) classes.

    python -m mnemonics_jax.main --config=configs/cifar100.py:phases=5 \
        --workdir=runs/cifar100

Images come from --config.data.dir=DIR, or shorter `:data=DIR`, which is
cifar-100-python.tar.gz, the folder in it, or a folder that has either. Where
there are none, TensorFlow Datasets finds or downloads them: the extra tfds, as
in pip install 'mnemonics-jax[tfds]'. They stay on the device, unless tf.data,
which needs the extra too, is to feed them:
    --config.data.feed=tfdata

Arguments follow the colon, separated by commas:
    phases      5 (default), 10 or 25
    method      lucir (default), icarl, lwf, bic, wa, podnet, finetune, joint
    exemplars   mnemonics (default), herding, random or none
    adjust      true or false; the default depends on the preset
    preset      tuned (default), bilevel, or paper (its literal constants)
    transfer    true or false; default: true with learned exemplars, as in the
                paper's rows "w/ ours", but never for joint
    data        where the images are

ResNet-32, 160 epochs per phase, SGD with learning rate 0.1, divided by 10 after
80 and 120 epochs, 20 exemplars per class. Published results of LUCIR w/
mnemonics, in percent:
    average incremental accuracy   N=5    N=10   N=25
    CVPR 2020, Table 1             64.95  63.25  63.70
    arXiv v6 (2021)                63.34  62.28  60.96
Later papers cite v6.
"""

from mnemonics_jax.config import apply_arguments, default_config


def get_config(text=''):
    config = default_config()
    arguments = apply_arguments(config, text, data='')
    config.data.source = 'cifar'
    config.data.name = 'cifar100'
    config.data.dir = arguments['data'] or None
    config.data.pad = 4
    config.data.flip = True
    config.protocol.base_classes = 50
    config.backbone.name = 'resnet32'
    return config
