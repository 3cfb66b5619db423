"""Checks that a path leads to a file that ends, before it is read.

Reading a named pipe waits for ever, and a device such as /dev/zero never ends.
"""

import errno
import os
import stat
from typing import Any

# Of an image file or a text file; archives and arrays have no limit.
MOST_BYTES = 2**28


def regular(path: Any, most: int | None = MOST_BYTES) -> Any:
    """The same path, if it can be read.

    Args:
        path: a path on disk, which is checked, or in a bucket or an archive.
        most: bytes that the file may have; None for any number.

    Raises:
        OSError: it is not there, is not a regular file, or is too large.
    """
    if not isinstance(path, str | os.PathLike) or '://' in str(path):
        return path
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        what = 'a folder' if stat.S_ISDIR(found.st_mode) else 'not a file'
        raise OSError(errno.EINVAL, f'is {what}: must be a file', str(path))
    if most is not None and found.st_size > most:
        raise OSError(
            errno.EFBIG,
            f'{found.st_size} bytes: must be at most {most}',
            str(path),
        )
    return path
