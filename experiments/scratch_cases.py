"""The cases of study C: fill a memory, then train and test networks on it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import (
    packing,
    scratch_data,
    scratch_learning,
    scratch_model,
)
from experiments.scratch_settings import Settings
from mnemonics_jax import backbones
from mnemonics_jax.exemplars.strategies import Candidates, strategy
from mnemonics_jax.types import Backbone

RANDOM, HERDING, LEARNED = 'random', 'herding', 'mnemonics'
BOUND = 'all images'
# Images per class that herding ranks at most; ranks of each seed are saved.
MAX_RANKED = 100


class Row(NamedTuple):
    """A row of the table: a way to fill the memory."""

    strategy: str
    packed: bool
    soft: bool = False

    @property
    def name(self) -> str:
        """Name in tables."""
        more = {'packed': self.packed, 'soft labels': self.soft}
        return ', '.join([self.strategy, *(k for k, v in more.items() if v)])


ROWS = (
    *(
        Row(strategy, packed)
        for packed in (False, True)
        for strategy in (RANDOM, HERDING, LEARNED)
    ),
    Row(LEARNED, packed=False, soft=True),
)


class Bench:
    """Runs the cases of a seed, which share images and backbone."""

    def __init__(self, data: scratch_data.Data, settings: Settings, seed: int):
        self.data, self.settings, self.seed = data, settings, seed
        self.backbone: Backbone = backbones.from_trunk(
            settings.network,
            num_classes=data.num_classes,
            image_shape=data.images.shape[1:],
            mean=data.mean,
            std=data.std,
            head='linear',
        )

    def bound(self) -> dict[str, Any]:
        """Case with all images; 'ranks' are herding ranks by network 0."""
        images, labels = self.data.images, self.data.labels
        training = self.settings.training_on_all
        values = []
        for number in range(self.settings.networks):
            seed = self.seed, number
            params = scratch_model.fit(
                self.backbone, training, seed, images, labels
            )
            values.append(self._test(params))
            if not number:
                found = scratch_model.features(self.backbone, params, images)
        fewest = int(np.bincount(labels).min())
        ranks = self._select(HERDING, found, min(fewest, MAX_RANKED))
        size = images.size // self.data.num_classes
        return {
            'accuracies': values,
            'drift_grey_levels': 0.0,
            'bytes_per_class': size,
            'ranks': [' '.join(map(str, each)) for each in ranks],
        }

    def case(
        self, row: Row, per_class: int, ranks: Sequence[str]
    ) -> dict[str, Any]:
        """Case of a row: fills the memory, trains and tests networks on it.

        Args:
            row: row of the table.
            per_class: bytes per class, in images.
            ranks: 'ranks' of `bound`.
        """
        factor, learning = 1, self.settings.learning
        if row.packed:
            factor = self.settings.factor
            learning = self.settings.learning_packed
        count = per_class * factor**2
        chosen = self._choose(row.strategy, count, ranks)
        labels = np.repeat(np.arange(len(chosen), dtype=np.int32), count)
        start = packing.to_levels(
            packing.pack(self.data.images[chosen.ravel()] / 255.0, factor)
        )
        pixels, targets, more = start, labels, {}
        if row.strategy == LEARNED:
            learned = scratch_learning.learn(
                self.backbone,
                self.settings.training,
                learning,
                self.seed,
                start,
                labels,
                self.data.images,
                self.data.labels,
                soft_labels=row.soft,
            )
            if row.soft:
                levels = packing.to_levels(learned.labels)
                targets = np.asarray(scratch_learning.soft(levels))
            pixels = packing.to_levels(learned.pixels)
            tenth = max(1, len(learned.losses) // 10)
            more = {
                'outer_loss_first': float(np.mean(learned.losses[:tenth])),
                'outer_loss_last': float(np.mean(learned.losses[-tenth:])),
            }
        drift = 255 * float(np.mean(np.abs(pixels - start)))
        # Soft labels take a byte per class.
        size = packing.stored_bytes(pixels) + row.soft * targets.size
        return {
            'accuracies': self._train_and_test(pixels, targets),
            'drift_grey_levels': drift,
            'bytes_per_class': size // len(chosen),
            **more,
        }

    def _train_and_test(self, pixels, labels):
        shown = packing.unpack(pixels, self.data.images.shape[1:3])
        values = []
        for number in range(self.settings.networks):
            params = scratch_model.fit(
                self.backbone,
                self.settings.training,
                (self.seed, number),
                np.asarray(shown),
                labels,
            )
            values.append(self._test(params))
        return values

    def _test(self, params):
        return scratch_model.accuracy(
            self.backbone, params, self.data.test_images, self.data.test_labels
        )

    def _select(self, rule, features, num):
        labels = self.data.labels
        candidates = Candidates(
            labels,
            lambda: features,
            classes=(0, self.data.num_classes),
            num=num,
            max_class_size=int(np.bincount(labels).max()),
            seed=(self.seed,),
        )
        return strategy(rule).select(candidates)

    def _choose(self, strategy, count, ranks):
        """Positions int[K, count] of the selected real images."""
        rule = self.settings.start if strategy == LEARNED else strategy
        if rule == RANDOM:
            return self._select(RANDOM, None, count)
        return np.array([each.split()[:count] for each in ranks], int)
