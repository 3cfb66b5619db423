"""A writer of TensorBoard event files (TFRecords of protobuf messages).

tensorboardX is not used: its writer thread dies on a full disk and the caller
then blocks forever, and its import loads PyTorch, which takes seconds.
"""

import functools
import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping


class Events:
    """An event file, new at each start of a run; see `logs.Log`."""

    run = 'events'

    def __init__(self, workdir: pathlib.Path, run: str | None) -> None:
        """Opens the file.

        Args:
            workdir: folder of the file.
            run: `Events.run` if it continues the earlier files there; None if
                TensorBoard is to hide what they have.

        Raises:
            OSError: the file cannot be written; all methods raise this too.
        """
        now, host = int(time.time()), socket.gethostname()
        name = f'events.out.tfevents.{now}.{host}.{os.getpid()}'
        self._file = open(workdir / name, 'wb')  # noqa: SIM115
        self._write(_bytes(3, b'brain.Event:2'))
        if run is None:  # A session that starts at step 0.
            self._write(_integer(2, 0) + _bytes(7, _integer(1, 1)))

    def scalars(
        self, step: int, values: Mapping[str, float], axis: str
    ) -> None:
        """Writes scalars.

        Args:
            step: >= 0.
            values: values by tag, rounded to float32.
            axis: not written: TensorBoard knows steps only.
        """
        del axis
        summary = b''.join(
            _bytes(1, _bytes(1, tag.encode()) + _float(2, value))
            for tag, value in values.items()
        )
        self._write(_integer(2, step) + _bytes(5, summary))

    def image(
        self, step: int, tag: str, png: bytes, shape: tuple[int, int, int]
    ) -> None:
        """Writes an image.

        Args:
            step: >= 0.
            tag: TensorBoard tag.
            png: content of the PNG file.
            shape: (H, W, C); C is 1 for grey, 3 for RGB.
        """
        numbers = [_integer(i, size) for i, size in enumerate(shape, start=1)]
        image = b''.join(numbers) + _bytes(4, png)
        value = _bytes(1, tag.encode()) + _bytes(4, image)
        self._write(_integer(2, step) + _bytes(5, _bytes(1, value)))

    def close(self, *, finished: bool) -> None:
        """Closes the file."""
        del finished
        self._file.close()

    def _write(self, fields: bytes) -> None:
        event = _double(1, time.time()) + fields
        self._file.write(as_record(event))
        # A run that is killed has as much here as in `metrics.jsonl`.
        self._file.flush()


def as_record(content: bytes) -> bytes:
    """A TFRecord: length, checksum of it, content, checksum of it."""
    length = struct.pack('<Q', len(content))
    return b''.join(
        part + struct.pack('<I', _masked(crc32c(part)))
        for part in (length, content)
    )


def crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli), as a uint32."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@functools.cache
def _crc_table() -> tuple[int, ...]:
    def divide(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value

    return tuple(divide(value) for value in range(256))


def _masked(crc: int) -> int:
    """The masked CRC of the TFRecord format."""
    rotated = crc >> 15 | crc << 17 & 0xFFFFFFFF
    return rotated + 0xA282EAD8 & 0xFFFFFFFF


# Fields of a protobuf message: number << 3 | kind, then the value.


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack('<d', value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack('<f', value)
