"""The bilevel problem: exemplars learned through the training of a model.

The inner loop trains a temporary copy of the model on the exemplars for T
gradient steps (`inner`, the paper's Eq. 8). The outer loop differentiates the
loss of that copy on query images through all T steps with respect to the
exemplars' pixels (`outer`, Eq. 9):

    theta'(E) = T steps of  theta' <- theta' - a2 grad_theta' L(theta'; E)
    E <- E - b1 grad_E L(theta'(E); D)

`hypergradients` has approximations of that gradient, `learner` the public
interface for any model. This folder does not depend on classes or networks.
"""

from mnemonics_jax.bilevel.inner import (
    InnerProblem,
    Layout,
    LossFn,
    embed,
    map_rows,
    sum_over,
    unroll,
)
from mnemonics_jax.bilevel.outer import (
    ExemplarState,
    Query,
    apply_gradient,
    in_units,
    init_state,
    outer_loss,
    pixel_gradient,
)

__all__ = [
    'ExemplarState',
    'InnerProblem',
    'Layout',
    'LossFn',
    'Query',
    'apply_gradient',
    'embed',
    'in_units',
    'init_state',
    'map_rows',
    'outer_loss',
    'pixel_gradient',
    'sum_over',
    'unroll',
]
