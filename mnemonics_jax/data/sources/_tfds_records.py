"""Records of a prepared TensorFlow Datasets set, with encoded images."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from mnemonics_jax.core import system_errors
from mnemonics_jax.data.errors import BadDataError
from mnemonics_jax.data.sources._tfds_builders import library, one_line

_RECORDS_PER_READ = 256


class Split:
    """The records of a split, in the order of its files.

    All methods raise `errors.BadDataError` if a file cannot be read.

    Attributes:
        field: name of the split in messages.
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
        """Whether the split has labels; all are -1 otherwise."""
        return next(self._values(self._label_key, np.arange(1)))[0] >= 0

    def labels(self, *, cache: bool) -> np.ndarray:
        """All labels, int32[n]; decodes no images.

        Args:
            cache: whether to cache them in a file beside the records.

        Raises:
            ValueError: the disk is too full for that file.
        """
        if cache:
            name = f'mnemonics_labels_{self._split}.npy'
            path = self._builder.data_path / name
            return _cached(path, len(self), lambda: self.labels(cache=False))
        values = self._values(self._label_key, np.arange(len(self)))
        labels = np.concatenate([np.asarray(v, np.int32) for v in values])
        self._check_num(len(labels))
        return labels

    def _check_num(self, num: int) -> None:
        # TFDS 4.9.10 loses records when it writes parquet.
        if num != self._num:
            raise BadDataError(
                f'{self.field}: {num} of {self._num} records are in '
                f'{self._builder.data_dir}; must be prepared again'
            )

    def encoded_images(self, positions: np.ndarray) -> Iterator[list[bytes]]:
        """Yields encoded images in batches.

        Args:
            positions: int64[k]; 0..k-1 without random access.
        """
        return self._values(self._image_key, positions)

    def load(self, position: int) -> bytes:
        """An encoded image; needs random access, may be called in threads."""
        with self._reading():
            # TFDS starts threads for several records, but not for a single one,
            # which is ten times faster.
            return self._value(self._source[position], self._image_key)

    def describe(self, position: int) -> str:
        """The name of a record in messages."""
        return f'{self.field}: record {position}'

    def _values(self, key: str, positions: np.ndarray) -> Iterator[Any]:
        """Yields the encoded values of a feature in batches."""
        values = self._fetch if self.random_access else self._scan
        with self._reading():
            yield from values(key, positions)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Raises BadDataError for files that are missing or broken."""
        try:
            yield
        except NotImplementedError:
            raise
        except Exception as e:
            raise BadDataError(
                f'{self.field}: the files in {self._builder.data_dir} cannot '
                f'be read: {one_line(e)}'
            ) from e

    def _fetch(self, key: str, positions: np.ndarray) -> Iterator[Any]:
        for start in range(0, len(positions), _RECORDS_PER_READ):
            batch = positions[start : start + _RECORDS_PER_READ].tolist()
            examples = self._source.__getitems__(batch)
            yield [self._value(example, key) for example in examples]

    def _value(self, example: Any, key: str) -> Any:
        """The encoded value of a feature of a record."""
        feature = example.features.feature[key]
        is_image = key == self._image_key
        values = (feature.bytes_list if is_image else feature.int64_list).value
        if not values:  # A truncated file gives empty records.
            raise ValueError(f'a record has no {key!r}')
        return values[0]

    def _scan(self, key: str, positions: np.ndarray) -> Iterator[Any]:
        tfds = library()
        skip = {self._image_key: tfds.decode.SkipDecoding()}
        dataset = self._builder.as_dataset(
            split=self._split,
            decoders=tfds.decode.PartialDecoding(
                {key: True}, skip if key == self._image_key else None
            ),
            # In the order of the files, as with random access.
            read_config=tfds.ReadConfig(
                interleave_cycle_length=1, try_autocache=False
            ),
        )
        dataset = dataset.take(len(positions)).batch(_RECORDS_PER_READ)
        for batch in dataset.as_numpy_iterator():
            yield batch[key]


def _cached(
    path: epath.Path, num: int, compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """Reads labels from a file, or computes them and writes the file.

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
        if system_errors.why_full(
            e
        ):  # The run would fail at its first checkpoint.
            raise ValueError(message) from e
        # Without the file, later runs have to scan the records again.
        logging.warning('%s', message)
    return labels
