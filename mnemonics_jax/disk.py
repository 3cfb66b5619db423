"""Telling a full disk from other failures."""

import errno
import os

# No space, no quota left, and a file larger than the system allows.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def why_full(error: BaseException) -> str | None:
    """What the system says of a full disk, if that is why something failed.

    Args:
        error: what was raised, or what was raised on its account: Orbax and its
            storage put the system's words into errors of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        for number in FULL:
            reason = os.strerror(number)
            if getattr(cause, 'errno', None) == number or reason in str(cause):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None
