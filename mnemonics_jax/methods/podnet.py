"""PODNet (Douillard et al. 2020): pooled outputs distillation.

L = L_nca + sqrt(seen / new classes) (spatial_weight L_spatial + flat_weight
L_flat), the last two from phase 1 on, on new data and exemplars alike. Weights
of 3 and 1 are the paper's for CIFAR, 8 and 10 for ImageNet. Its classifier is
the head 'local_similarity'; 'cosine' is the paper's ablation with one proxy.

Proxies of new classes start as centres of k-means on the previous model's
features (`method.imprint`); old ones stay frozen (`method.freeze_old_rows`).

It is judged by the classifier after fine-tuning on a balanced memory, here
'finetuned'. The authors tune the classifier alone, by L_nca; here it is the
whole model, by cross-entropy, as for every method.
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax import losses
from mnemonics_jax.core import rules
from mnemonics_jax.types import Method

SETTINGS = {
    'spatial_weight': (
        3.0,
        rules.NOT_NEGATIVE,
        'Weight of the distance of pooled maps, L_spatial.',
    ),
    'flat_weight': (
        1.0,
        rules.NOT_NEGATIVE,
        'Weight of the distance of features, L_flat.',
    ),
    'margin': (
        0.6,
        rules.NOT_NEGATIVE,
        'Lead that the true class shall have, in scores.',
    ),
}
DEFAULTS = {
    'head': 'local_similarity',
    'imprint': True,
    'freeze_old_rows': True,
}
HEADS = ('local_similarity', 'cosine')


def make(settings: Any) -> Method:
    """The method with its settings."""

    def loss(outputs, ref_outputs, labels, phase):
        nca = losses.nca(
            outputs.scores,
            outputs.scale,
            labels,
            phase.num_seen,
            margin=settings.margin,
        )
        spatial = losses.pod_spatial(outputs.maps, ref_outputs.maps)
        flat = losses.pod_flat(outputs.features, ref_outputs.features)
        num_new = jnp.maximum(phase.num_seen - phase.num_old, 1)
        # In phase 0 there is nothing to distil from.
        growth = jnp.where(
            phase.num_old > 0, jnp.sqrt(phase.num_seen / num_new), 0
        )
        everywhere = jnp.ones_like(nca)
        return {
            'nca': (nca, everywhere),
            'pod_spatial': (
                settings.spatial_weight * growth * spatial,
                everywhere,
            ),
            'pod_flat': (settings.flat_weight * growth * flat, everywhere),
        }

    return Method(loss=loss, uses_reference=True, predictor='finetuned')
