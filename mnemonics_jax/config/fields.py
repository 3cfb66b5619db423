"""The fields of a configuration and their defaults.

Files in `configs/` start from `default_config()` and change it. None stands for
"the preset's value" in the section `exemplars`, "the method's" in `method` and
`backbone`, and "not used" elsewhere.
"""

import copy

from ml_collections import config_dict

from mnemonics_jax import methods

optional = config_dict.placeholder
fields = config_dict.create(
    # Of all that is random but the class order.
    seed=0,
    # Files with a method, backbone or data source of one's own (see
    # plugins.py), separated by commas.
    plugins='',
    data=config_dict.create(
        # Where images come from.
        source='digits',
        # Of a TFDS set (source tfds): cifar100, imagenet2012, ...
        name=optional(str),
        # Of TFDS's prepared files, of an image folder, or an .npz file.
        dir=optional(str),
        # Images are resized to this square; None: as they are.
        image_size=optional(int),
        # A file that is no image: 'fail', or 'skip' it with a warning.
        on_bad_image='fail',
        # How images reach the model: 'tfdata', or from the 'device'.
        feed='tfdata',
        # A phase's images are kept in memory up to so many, or else read
        # anew in every pass; and what reading ahead may take.
        memory_mb=4096,
        read_ahead_mb=256,
        # Evaluation resizes the shorter side to this before the central
        # crop; None: to image_size.
        eval_resize=optional(int),
        # Augmentation: zero padding before a random crop, and mirroring;
        # with `flip`, exemplar means take mirror images in, too.
        pad=0,
        flip=False,
        # Instead of padding: a random part resized, as for ImageNet; and
        # pixels times a factor within 1 +- brightness.
        random_resized_crop=False,
        brightness=0.0,
        # Only so many classes, drawn as ImageNet-Subset is; None for all.
        subset_classes=optional(int),
        subset_seed=1993,
        # The synthetic source's own fields.
        num_classes=optional(int),
        channels=optional(int),
        train_per_class=optional(int),
        test_per_class=optional(int),
    ),
    protocol=config_dict.create(
        # None: about half of the classes, then 5 equal phases.
        base_classes=optional(int),
        phases=optional(int),
        # End after this phase; a later command may go on.
        stop_after_phase=optional(int),
        # Of the order in which classes arrive.
        class_order_seed=1993,
        # A text file with the class names in order, instead of a seed.
        class_order_file=optional(str),
    ),
    # Steps that one program takes before the host looks; None: one on CPU,
    # on accelerators up to 32, fewer where batches are large.
    steps_per_dispatch=optional(int),
    # What networks compute in: 'float32', or 'bf16' for accelerators. All
    # that is kept, losses and gradients are float32 with both.
    precision='float32',
    # Kernels frozen after phase 0, with learned scales (weight_transfer.py).
    weight_transfer=False,
    # Whether a run ends by drawing report.html and figures/.
    report=True,
    # The network, and its head; None: as the method's paper has it.
    backbone=config_dict.create(name='convnet', head=optional(str)),
    method=config_dict.create(
        # The class-incremental method.
        name='lucir',
        # None: as the method's paper has it (DEFAULTS in its file). New
        # head rows start as class means, or centres of k-means where a
        # class has proxies; old ones stay as they are.
        imprint=optional(bool),
        freeze_old_rows=optional(bool),
    ),
    # Training on a phase's data and the memory, by SGD.
    train=config_dict.create(
        # Work directory of a run from which phase 0 takes its trained model,
        # instead of training it again (base_run.py).
        base_run=optional(str),
        epochs=160,
        batch_size=128,
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        # The rate is multiplied by gamma at each milestone, an epoch; or
        # falls as half a cosine.
        schedule='step',
        milestones=(80, 120),
        gamma=0.1,
    ),
    exemplars=config_dict.create(
        # How exemplars are chosen, and whether they are learned.
        strategy='mnemonics',
        # What fills the fields that are None.
        preset='tuned',
        # The memory: images a class, or images in all; the other is 0.
        per_class=20,
        total=0,
        # What pixels are kept as.
        storage='uint8',
        # None: as the preset says (see presets.py).
        adjust=optional(bool),
        init=optional(str),
        outer_epochs=optional(int),
        outer_steps=optional(int),
        outer_optimizer=optional(str),
        outer_lr=optional(float),
        adjust_steps=optional(int),
        adjust_lr=optional(float),
        inner_steps=optional(int),
        inner_lr=optional(float),
        inner_batch=optional(int),
        inner_scope=optional(str),
        inner_start=optional(str),
        query_batch=optional(int),
        objective=optional(str),
        means_weight=optional(float),
        inner_augment=optional(bool),
        # How inner steps are differentiated (hypergradients.py): 'unroll'
        # is exact; 'truncated', 'neumann', 'cg' take so many terms.
        hypergradient='unroll',
        hypergradient_terms=10,
        # Images in work at once while exemplars are learned, where memory
        # is short; None: all of a minibatch.
        microbatch=optional(int),
    ),
    # A copy of the model on all exemplars, before the test; with `carry`
    # the next phase starts from it.
    finetune=config_dict.create(
        epochs=50, batch_size=128, lr=0.01, momentum=0.9, carry=False
    ),
    # Images at once. With `oracle`, means of all training images classify,
    # too: a ceiling.
    evaluate=config_dict.create(batch_size=256, oracle=False),
    # Besides the end of each phase, the middle of its loops is saved every
    # so many steps and seconds; 0 for never. The newest `keep` stay.
    checkpoint=config_dict.create(keep=2, every_steps=0, every_seconds=300.0),
)


def default_config() -> config_dict.ConfigDict:
    """The fields and their defaults, for small images.

    Example:
        >>> from mnemonics_jax import default_config
        >>> config = default_config()
        >>> config.exemplars.per_class = 5
        >>> config.data.source, config.exemplars.per_class
        ('digits', 5)
    """
    config = copy.deepcopy(fields)
    # Each method's own settings, as in method.lucir.margin.
    config.method.update(methods.default_settings())
    # A field that does not exist is a mistake in a file, too.
    return config.lock()
