"""Short digests of what is saved, to notice that it came back otherwise."""

import hashlib
import json
from typing import Any

import jax
import numpy as np


def of_arrays(tree: Any) -> str:
    """The SHA-256 of all arrays of a tree, in hexadecimal.

    Args:
        tree: of arrays or numbers, each whole in this process. Containers and
            names do not count: what is read without knowing the types that
            were saved has others.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return _of_parts(sorted(_of_array(leaf) for leaf in leaves))


def of_json(value: Any) -> str:
    """The SHA-256 of a value as JSON takes it, in hexadecimal."""
    return _of_parts([json.dumps(value).encode()])


def _of_array(array: np.ndarray) -> bytes:
    found = hashlib.sha256(f'{array.dtype} {array.shape} '.encode())
    found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.digest()


def _of_parts(parts: list[bytes]) -> str:
    return hashlib.sha256(b''.join(parts)).hexdigest()
