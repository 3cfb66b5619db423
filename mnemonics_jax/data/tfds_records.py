"""The records of a prepared set of TensorFlow Datasets, images encoded."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from mnemonics_jax.data.tfds_sets import library, one_line

_RECORDS_PER_READ = 256


class Split:
    """The records of a split, in the order of its files.

    Attributes:
        field: how messages name it.
        random_access: whether single records can be read.
    """

    def __init__(self, builder: Any, name: str, split: str, *keys: str) -> None:
        self.field = f'data.name={name!r}: split {split!r}'
        self._builder = builder
        self._split = split
        self._image_key, self._label_key = keys
        self._num = builder.info.splits[split].num_examples
        method = library().decode.DeserializeMethod.DESERIALIZE_NO_DECODE
        self.random_access = True
        try:
            with self._reading():
                self._source = builder.as_data_source(
                    split, deserialize_method=method
                )
        except NotImplementedError:
            self.random_access = False
        else:
            self._check_num(len(self._source))

    def __len__(self) -> int:
        return self._num

    def is_labelled(self) -> bool:
        """Whether the first record has a label; it is -1 where none has."""
        return next(self._values(self._label_key, np.arange(1)))[0] >= 0

    def labels(self, *, keep: bool) -> np.ndarray:
        """All labels, int32[n], not decoding any image.

        Args:
            keep: whether to write them to a file, and to read it if there.
        """
        if keep:
            name = f'mnemonics_labels_{self._split}.npy'
            path = self._builder.data_path / name
            return _kept(path, len(self), lambda: self.labels(keep=False))
        values = self._values(self._label_key, np.arange(len(self)))
        labels = np.concatenate([np.asarray(v, np.int32) for v in values])
        self._check_num(len(labels))
        return labels

    def _check_num(self, num: int) -> None:
        # TFDS 4.9.10 loses records when it writes parquet.
        if num != self._num:
            raise ValueError(
                f'{self.field}: {num} of {self._num} records are in '
                f'{self._builder.data_dir}; it must be prepared anew'
            )

    def encoded_images(self, positions: np.ndarray) -> Iterator[list[bytes]]:
        """Images as they are stored, some at a time.

        Args:
            positions: int64[k]; without random access 0..k-1.
        """
        return self._values(self._image_key, positions)

    def _values(self, key: str, positions: np.ndarray) -> Iterator[Any]:
        """The stored values of a feature, some at a time."""
        values = self._picked if self.random_access else self._scanned
        with self._reading():
            yield from values(key, positions)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Explains what files that are missing, truncated or broken raise."""
        try:
            yield
        except NotImplementedError:
            raise
        except Exception as e:
            raise ValueError(
                f'{self.field}: the files in {self._builder.data_dir} cannot '
                f'be read: {one_line(e)}'
            ) from e

    def _picked(self, key: str, positions: np.ndarray) -> Iterator[Any]:
        for start in range(0, len(positions), _RECORDS_PER_READ):
            some = positions[start : start + _RECORDS_PER_READ].tolist()
            examples = self._source.__getitems__(some)
            features = [example.features.feature[key] for example in examples]
            if key == self._image_key:
                yield [feature.bytes_list.value[0] for feature in features]
            else:
                yield [feature.int64_list.value[0] for feature in features]

    def _scanned(self, key: str, positions: np.ndarray) -> Iterator[Any]:
        tfds = library()
        skip = {self._image_key: tfds.decode.SkipDecoding()}
        dataset = self._builder.as_dataset(
            split=self._split,
            decoders=tfds.decode.PartialDecoding(
                {key: True}, skip if key == self._image_key else None
            ),
            # In the order of the files, which is that of random access.
            read_config=tfds.ReadConfig(
                interleave_cycle_length=1, try_autocache=False
            ),
        )
        dataset = dataset.take(len(positions)).batch(_RECORDS_PER_READ)
        for batch in dataset.as_numpy_iterator():
            yield batch[key]


def _kept(
    path: epath.Path, num: int, compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """Labels from a file; where it is missing or bad, computed and written."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        labels = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        if labels.shape == (num,) and labels.dtype == np.int32:
            return labels
    labels = compute()
    buffer = io.BytesIO()
    np.save(buffer, labels)
    part = path.with_name(f'{path.name}.incomplete.{os.getpid()}')
    try:
        part.write_bytes(buffer.getvalue())
        part.replace(path)
    except OSError as e:
        # It only saves later runs the pass over the records.
        logging.warning('%s: cannot be written: %s', path, one_line(e))
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return labels
