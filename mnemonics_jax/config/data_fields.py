"""The fields of the sections `data` and `protocol`; see `fields.py`."""

from mnemonics_jax.config import choices
from mnemonics_jax.core.rules import (
    BOOLEAN,
    SEED,
    SIZES,
    TEXT,
    Field,
    at_least,
    number,
    one_of,
    or_none,
)

FIELDS = {
    'data.source': Field('digits', choices.SOURCES, 'Where images come from.'),
    'data.name': Field(
        None,
        or_none(TEXT),
        'TFDS data set (source tfds); cifar100 or cifar10 (source cifar).',
    ),
    'data.dir': Field(
        None, or_none(TEXT), 'Directory of the data, an archive or .npz file.'
    ),
    'data.image_size': Field(
        None,
        or_none(at_least(1, 4096)),
        'Side of the square that images are resized to; None: not resized.',
    ),
    'data.labels': Field(
        None,
        or_none(TEXT),
        'CSV with the columns file, label: classes of the files in dir.',
    ),
    'data.test_fraction': Field(
        None,
        or_none(number(0, 1, above=True)),
        'Part of each class to hold out where a folder has no test images.',
    ),
    'data.on_bad_image': Field(
        'fail',
        one_of(('fail', 'skip')),
        'What to do with a file that is no image; skip: with a warning.',
    ),
    'data.on_changed': Field(
        'stop',
        one_of(('stop', 'continue')),
        'What to do if images of learned classes are not what they were.',
    ),
    'data.feed': Field(
        'auto',
        one_of(('auto', 'device', 'tfdata')),
        'Images on the device, or by tf.data; auto: on the device if they fit.',
    ),
    'data.memory_mb': Field(
        4096,
        at_least(0, 10**9),
        "Limit to keep a phase's images in memory; above, each epoch reads.",
    ),
    'data.read_ahead_mb': Field(
        256, at_least(1, 10**6), 'Memory for batches that are read ahead.'
    ),
    'data.eval_resize': Field(
        None,
        or_none(at_least(1, 4096)),
        'Shorter side before the central crop of evaluation; None: image_size.',
    ),
    'data.pad': Field(
        0, at_least(0, 512), 'Zero padding before a random crop.'
    ),
    'data.flip': Field(
        False,
        BOOLEAN,
        'Mirrors images at random; exemplar means use mirror images, too.',
    ),
    'data.random_resized_crop': Field(
        False,
        BOOLEAN,
        'Crops and resizes a random part, as for ImageNet, instead of pad.',
    ),
    'data.brightness': Field(
        0.0, number(0, 1), 'Pixels times a random factor in 1 +- this.'
    ),
    'data.subset_classes': Field(
        None,
        or_none(at_least(1, 10**6)),
        'Number of classes to draw, as for ImageNet-Subset; None: all.',
    ),
    'data.subset_seed': Field(
        1993, SEED, 'Seed of that draw and of test_fraction.'
    ),
    'data.num_classes': Field(
        None, or_none(at_least(1, 100_000)), 'Number of classes (synthetic).'
    ),
    'data.channels': Field(
        None, or_none(at_least(1, 1024)), 'Channels of images (synthetic).'
    ),
    'data.train_per_class': Field(
        None,
        or_none(at_least(1, 10**6)),
        'Training images a class (synthetic).',
    ),
    'data.test_per_class': Field(
        None, or_none(at_least(1, 10**6)), 'Test images a class (synthetic).'
    ),
    'protocol.base_classes': Field(
        None,
        or_none(at_least(0, 10**6)),
        'Classes of phase 0; None: about half of them.',
    ),
    'protocol.phases': Field(
        None,
        or_none(at_least(0, 10**6)),
        'Equal phases after phase 0; None: 5.',
    ),
    'protocol.remainder': Field(
        None,
        or_none(one_of(('last',))),
        'If last, the last phase is smaller where phases does not divide.',
    ),
    'protocol.phase_sizes': Field(
        None,
        or_none(SIZES),
        'Classes of each phase from 0 on, in place of the three fields above.',
    ),
    'protocol.stop_after_phase': Field(
        None,
        or_none(at_least(0, 10**6)),
        'Phase to end after; a later command can resume. None: the last.',
    ),
    'protocol.class_order_seed': Field(
        1993, SEED, 'Seed of the order in which classes arrive.'
    ),
    'protocol.class_order_file': Field(
        None,
        or_none(TEXT),
        'Text file with the class names in order, instead of a seed.',
    ),
}
