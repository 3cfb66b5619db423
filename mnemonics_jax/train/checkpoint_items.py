"""Checkpoint items with digests, restored in a given shape.

Orbax detects truncated files but not flipped bits. Each checkpoint therefore
has digests of its items, which are compared after reading.
"""

import functools
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath
from jax.sharding import SingleDeviceSharding

from mnemonics_jax.core import multihost, parallel
from mnemonics_jax.core.regular import regular

if TYPE_CHECKING:
    from orbax.checkpoint.args import Composite


def composite(arrays: dict[str, Any], values: dict[str, Any]) -> 'Composite':
    """Arguments for saving array items, JSON items and their digests."""
    import orbax.checkpoint as ocp

    digests = {name: digest_of_arrays(tree) for name, tree in arrays.items()}
    digests |= {name: digest_of_json(value) for name, value in values.items()}
    items = {name: ocp.args.StandardSave(x) for name, x in arrays.items()}
    items |= {name: ocp.args.JsonSave(x) for name, x in values.items()}
    return ocp.args.Composite(digests=ocp.args.JsonSave(digests), **items)


def read(
    folder: epath.Path,
    *,
    arrays: dict[str, Any],
    values: Sequence[str] = (),
    alone: bool = False,
) -> dict[str, Any]:
    """Reads items of a checkpoint.

    Args:
        folder: folder of the checkpoint.
        arrays: by item name, a tree with the structure, shapes and placement of
            the result; None reads the item as it was saved. Rows beyond the
            saved ones, of classes added after the start, are taken from it.
        values: names of JSON items.
        alone: whether other processes of a run may not read it now; arrays are
            then read as they were saved.

    Raises:
        ValueError: a digest does not match. Orbax raises other types.
    """
    import orbax.checkpoint as ocp

    _overlook_remains()
    names = ['digests', *values]
    restored: dict[str, Any] = {}
    error: Exception | None = None
    try:
        check_files(folder)
        restored = {
            name: ocp.StandardCheckpointHandler().restore(
                folder / name,
                args=ocp.args.StandardRestore(_saved_form(folder / name, like)),
            )
            for name, like in arrays.items()
        }
        # By handlers: after an error in one process, the manager would leave
        # the others waiting for it.
        restored |= {
            name: ocp.JsonCheckpointHandler().restore(folder / name)
            for name in names
        }
    except Exception as e:  # Orbax's storage raises many types.
        error = e
    # Together: arrays may lie on several processes, which gather them below.
    agreed = error is None if alone else multihost.all_agree(error is None)
    if not agreed:
        raise error or ValueError('another process cannot read it')
    for name in [*arrays, *values]:
        digest = digest_of_arrays if name in arrays else digest_of_json
        if digest(restored[name]) != restored['digests'][name]:
            raise ValueError(f'{name}: digest does not match')
    grown = {
        name: jax.tree.map(_grow, like, restored[name])
        for name, like in arrays.items()
        if like is not None
    }
    return {**restored, **grown}


def check_files(folder: epath.Path) -> None:
    """Raises OSError if there is anything but files: pipes never end."""
    if '://' in str(folder):  # In a bucket there are only files.
        return
    for place, _, names in os.walk(folder):
        for name in names:
            regular(pathlib.Path(place, name), None)


@functools.cache
def _overlook_remains() -> None:
    """From now on, says nothing of coroutines that Orbax leaves unfinished.

    If it cannot read an array, those of others are left. When they are freed or
    go on, at some later time, Python would print their errors with a stack.
    """
    before = sys.unraisablehook

    def say(found: Any) -> None:
        code = getattr(found.object, 'cr_code', None)
        freed = code is not None and 'orbax' in code.co_filename
        goes_on = str(found.exc_value) == 'Event loop is closed'
        if not freed and not goes_on:
            before(found)

    sys.unraisablehook = say


def _saved_form(folder: epath.Path, like: Any) -> Any:
    """Saved shapes of the arrays in a folder, with the placement of `like`.

    Without `like` they are on one device: those that saved them may not exist
    here. Orbax, told nothing, would read other files of the folder than here.
    """
    import orbax.checkpoint as ocp

    saved = ocp.StandardCheckpointHandler().metadata(folder)
    if like is None:
        place = SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            saved,
        )
    shapes = {
        _names(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved)
    }

    def form(path: Any, leaf: jax.Array) -> jax.ShapeDtypeStruct:
        target = ocp.utils.to_shape_dtype_struct(leaf)
        shape, sharding = shapes[_names(path)], target.sharding
        if isinstance(leaf, jax.Array):
            sharding = parallel.kept_sharding(leaf, shape)
        return jax.ShapeDtypeStruct(shape, target.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(form, like)


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    """Key names of a tree path; Orbax saves every node as a dictionary."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _grow(like: jax.Array, found: jax.Array) -> jax.Array:
    """`found` in the shape of `like`; missing entries are those of `like`."""
    if like.shape == found.shape:
        return found
    both = zip(like.shape, found.shape, strict=True)
    common = tuple(slice(min(sizes)) for sizes in both)
    put = jax.jit(
        lambda x, y: x.at[common].set(y[common]), out_shardings=like.sharding
    )
    return put(like, found)


def digest_of_arrays(tree: Any) -> str:
    """SHA-256 of all arrays of a tree, in hexadecimal.

    Args:
        tree: arrays or numbers, equal in all processes or parts of one array.
            Containers and names are ignored, since Orbax may restore other
            containers.
    """
    return _of_parts(
        sorted(_of_array(parallel.on_host(x)) for x in jax.tree.leaves(tree))
    )


def digest_of_json(value: Any) -> str:
    """SHA-256 of a JSON serializable value, in hexadecimal."""
    return _of_parts([json.dumps(value).encode()])


def _of_array(array: np.ndarray) -> bytes:
    digest = hashlib.sha256(f'{array.dtype} {array.shape} '.encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.digest()


def _of_parts(parts: list[bytes]) -> str:
    return hashlib.sha256(b''.join(parts)).hexdigest()
