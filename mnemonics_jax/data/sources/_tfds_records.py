"""The records of a prepared set of TensorFlow Datasets, images encoded."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from mnemonics_jax.core.cli import FULL
from mnemonics_jax.data.errors import BadDataError
from mnemonics_jax.data.sources._tfds_builders import library, one_line

_RECORDS_PER_READ = 256


class Split:
    """The records of a split, in the order of its files.

    All of its methods raise `errors.BadDataError` where files cannot be read.

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

        Raises:
            ValueError: the disk is too full for that file.
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
            raise BadDataError(
                f'{self.field}: {num} of {self._num} records are in '
                f'{self._builder.data_dir}; it must be prepared anew'
            )

    def encoded_images(self, positions: np.ndarray) -> Iterator[list[bytes]]:
        """Images as they are stored, some at a time.

        Args:
            positions: int64[k]; without random access 0..k-1.
        """
        return self._values(self._image_key, positions)

    def load(self, position: int) -> bytes:
        """An image as it is stored; takes random access, allows threads."""
        with self._reading():
            # TFDS starts threads for several records, not for a single one,
            # which is faster by an order of magnitude.
            return self._value(self._source[position], self._image_key)

    def describe(self, position: int) -> str:
        """How messages name a record."""
        return f'{self.field}: record {position}'

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
            raise BadDataError(
                f'{self.field}: the files in {self._builder.data_dir} cannot '
                f'be read: {one_line(e)}'
            ) from e

    def _picked(self, key: str, positions: np.ndarray) -> Iterator[Any]:
        for start in range(0, len(positions), _RECORDS_PER_READ):
            some = positions[start : start + _RECORDS_PER_READ].tolist()
            examples = self._source.__getitems__(some)
            yield [self._value(example, key) for example in examples]

    def _value(self, example: Any, key: str) -> Any:
        """The stored value of a feature of a record."""
        feature = example.features.feature[key]
        is_image = key == self._image_key
        values = (feature.bytes_list if is_image else feature.int64_list).value
        if not values:  # A file that was cut gives empty records.
            raise ValueError(f'a record has no {key!r}')
        return values[0]

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
    """Labels from a file; where it is missing or bad, computed and written.

    Raises:
        ValueError: there is no space for the file.
    """
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
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        message = f'{path}: cannot be written: {e.strerror or one_line(e)}'
        if e.errno in FULL:  # The run would fail at its first checkpoint.
            raise ValueError(message) from e
        # The file only saves later runs the pass over the records.
        logging.warning('%s', message)
    return labels
