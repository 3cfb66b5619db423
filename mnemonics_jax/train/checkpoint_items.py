"""The items of a checkpoint: written with digests, read in the shape asked for.

Orbax notices files cut short, but hands out arrays and JSON of which a bit has
changed. So each checkpoint holds digests of its items, which have to be those
of what is read.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding


def composite(
    arrays: dict[str, Any], values: dict[str, Any]
) -> ocp.args.Composite:
    """What to save: items of arrays, items of JSON, and digests of all."""
    found = {name: digest_of_arrays(tree) for name, tree in arrays.items()}
    found |= {name: digest_of_json(value) for name, value in values.items()}
    items = {name: ocp.args.StandardSave(x) for name, x in arrays.items()}
    items |= {name: ocp.args.JsonSave(x) for name, x in values.items()}
    return ocp.args.Composite(digests=ocp.args.JsonSave(found), **items)


def read(
    manager: ocp.CheckpointManager,
    number: int,
    *,
    arrays: dict[str, Any],
    values: Sequence[str] = (),
) -> dict[str, Any]:
    """Reads items of a checkpoint.

    Args:
        manager: of the checkpoints.
        number: of one of them.
        arrays: item -> a tree of the same structure, placed as the result shall
            be; or None, to read as it was saved. Where an array has more rows
            than were saved, as when classes have come into being, the further
            rows are its own.
        values: names of items of JSON.

    Raises:
        ValueError: an item is not what was saved. Orbax raises more types.
    """
    folder = manager.directory / str(number)
    targets = {
        name: ocp.args.StandardRestore(
            like if like is None else _saved_form(folder / name, like),
            # The devices that saved it may not be there.
            fallback_sharding=SingleDeviceSharding(jax.local_devices()[0]),
        )
        for name, like in arrays.items()
    }
    names = ['digests', *values]
    targets |= {name: ocp.args.JsonRestore() for name in names}
    restored = manager.restore(number, args=ocp.args.Composite(**targets))
    for name in [*arrays, *values]:
        digest = digest_of_arrays if name in arrays else digest_of_json
        if digest(restored[name]) != restored['digests'][name]:
            raise ValueError(f'{name} is not what was saved')
    grown = {
        name: jax.tree.map(_grow, like, restored[name])
        for name, like in arrays.items()
        if like is not None
    }
    return {**dict(restored.items()), **grown}


def _saved_form(folder: epath.Path, like: Any) -> Any:
    """Shapes of the arrays in a folder, placed as those of `like` are."""
    saved = ocp.StandardCheckpointHandler().metadata(folder)
    shapes = {
        _names(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved)
    }

    def form(path: Any, leaf: jax.Array) -> jax.ShapeDtypeStruct:
        ours = ocp.utils.to_shape_dtype_struct(leaf)
        return jax.ShapeDtypeStruct(
            shapes[_names(path)], ours.dtype, sharding=ours.sharding
        )

    return jax.tree_util.tree_map_with_path(form, like)


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    """A path in a tree; Orbax writes every kind of node as a dictionary."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _grow(like: jax.Array, found: jax.Array) -> jax.Array:
    """`found` in the shape of `like`, further entries from `like`."""
    if like.shape == found.shape:
        return found
    both = zip(like.shape, found.shape, strict=True)
    common = tuple(slice(min(sizes)) for sizes in both)
    return jax.jit(lambda x, y: x.at[common].set(y[common]))(like, found)


def digest_of_arrays(tree: Any) -> str:
    """The SHA-256 of all arrays of a tree, in hexadecimal.

    Args:
        tree: of arrays or numbers, each whole in this process. Containers and
            names do not count: what is read without knowing the types that
            were saved has others.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return _of_parts(sorted(_of_array(leaf) for leaf in leaves))


def digest_of_json(value: Any) -> str:
    """The SHA-256 of a value as JSON takes it, in hexadecimal."""
    return _of_parts([json.dumps(value).encode()])


def _of_array(array: np.ndarray) -> bytes:
    found = hashlib.sha256(f'{array.dtype} {array.shape} '.encode())
    found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.digest()


def _of_parts(parts: list[bytes]) -> str:
    return hashlib.sha256(b''.join(parts)).hexdigest()
