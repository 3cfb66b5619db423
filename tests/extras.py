"""What needs an extra of setup.py that may not be installed."""

import pytest

from mnemonics_jax.data import tf_import

MISSING = 'the extra tfds is not installed'
needs_tfds = pytest.mark.skipif(not tf_import.is_installed(), reason=MISSING)


def skip_without_tfds() -> None:
    """Skips the test that calls it, if the extra tfds is missing."""
    if not tf_import.is_installed():
        pytest.skip(MISSING)
