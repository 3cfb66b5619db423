"""The contract of methods that come from a user: checked before a run.

`jax.eval_shape` runs their functions on shapes alone.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from mnemonics_jax import methods
from mnemonics_jax.backbones import heads
from mnemonics_jax.core import plugins
from mnemonics_jax.core.rules import one_of
from mnemonics_jax.core.text import CLASSIFIERS
from mnemonics_jax.types import HeldOut, Method, Outputs, Phase

# Examples, classes and features to try a method on: no two alike.
_B, _K, _D = 4, 6, 5


def check_method(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if the method is a plug-in and breaks its contract."""
    name = config.method.name
    if name not in plugins.registered('methods'):
        return
    try:
        for head in methods.heads_of(name):
            if head not in heads.HEADS:
                raise ValueError(
                    f'HEADS has {head!r}: must be {one_of(heads.HEADS).words}'
                )
        method = plugins.attempt(
            'make', methods.make_method, name, config.method
        )
        _check_values(method)
        _check_terms('loss', method.loss)
        if method.finetune_loss is not None:
            _check_terms('finetune_loss', method.finetune_loss)
        if method.end_phase is not None:
            _check_end_phase(method, methods.heads_of(name)[0])
    except ValueError as e:
        raise ValueError(f'method.name={name!r}: {e}') from e


def _check_values(method: Any) -> None:
    if not isinstance(method, Method):
        raise ValueError(
            f'make: returned {type(method).__name__}: must be a Method'
        )
    if method.predictor not in CLASSIFIERS:
        raise ValueError(
            f'predictor={method.predictor!r}: must be '
            f'{one_of(CLASSIFIERS).words}'
        )
    holdout = method.holdout
    if not isinstance(holdout, int | float) or not 0 <= holdout < 1:
        raise ValueError(f'holdout={holdout!r}: must be a number >= 0 and < 1')
    if holdout and method.end_phase is None:
        raise ValueError(
            f'holdout={holdout}: must be 0 without end_phase, which reads what '
            'is held out'
        )


def _check_terms(field: str, loss: Any) -> None:
    """Raises ValueError unless a loss gives values and weights of examples."""
    terms = plugins.attempt(
        field, jax.eval_shape, loss, _outputs(), _outputs(), _ints(_B), _phase()
    )
    if not isinstance(terms, Mapping) or not terms:
        raise ValueError(
            f'{field}: returned {plugins.described(terms)}: must be a dict, '
            'term -> (values [B], weights [B])'
        )
    for term, pair in terms.items():
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        shapes = [getattr(x, 'shape', None) for x in pair] if is_pair else []
        if shapes != [(_B,), (_B,)]:
            raise ValueError(
                f'{field}: term {term!r} is {plugins.described(pair)} for '
                f'B={_B} examples: must be (values [B], weights [B])'
            )


def _check_end_phase(method: Method, head: str) -> None:
    """Raises ValueError unless `end_phase` keeps the shapes of the head."""
    key = jax.eval_shape(jax.random.key, 0)
    params = jax.eval_shape(
        lambda key: heads.make_head(head).init(key, _K, _D), key
    )
    if method.corrects_logits:
        params = {**params, 'scale': _floats(_K), 'shift': _floats(_K)}
    held_out = HeldOut(_floats(_B, _K), _ints(_B), _floats(_B))
    found = plugins.attempt(
        'end_phase',
        jax.eval_shape,
        method.end_phase,
        params,
        held_out,
        _phase(),
    )
    if _shapes(found) != _shapes(params):
        raise ValueError(
            f'end_phase: returned {plugins.described(found)}: must be head '
            f'params like those given, {plugins.described(params)}'
        )


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype) for x in leaves]


def _outputs() -> Outputs:
    maps = tuple(_floats(_B, 4, 4, _D) for _ in range(3))
    return Outputs(_floats(_B, _K), _floats(_B, _K), _floats(_B, _D), maps)


def _phase() -> Phase:
    return Phase(_ints(), _ints(), _ints())


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _ints(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, np.int32)
