"""PODNet (Douillard et al. 2020): pooled outputs distillation.

L = L_nca + sqrt(seen / new classes) (spatial_weight L_spatial + flat_weight
L_flat), the last two from phase 1 on, on new data and exemplars. The paper's
weights are 3 and 1 for CIFAR, 8 and 10 for ImageNet. Its classifier is the head
'local_similarity'; 'cosine' is the paper's ablation with one proxy.

Proxies of new classes start as centres of k-means on the previous model's
features (`method.imprint`); old ones are frozen (`method.freeze_old_rows`).

The rate of training falls as half a cosine. Then the proxies alone are
fine-tuned on the balanced memory with L_nca, at a constant rate; this model is
evaluated, as 'finetuned', and the next phase starts from it.

Losses and classifier are those of the authors' code, where it differs from the
paper (see `losses.nca`, `losses.pod_spatial`, `heads.HEADS`). docs/choices.md
lists what is left of differences.
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
}
DEFAULTS = {
    'backbone.head': 'local_similarity',
    'method.imprint': True,
    'method.freeze_old_rows': True,
    'train.schedule': 'cosine',
    'finetune.epochs': 20,
    'finetune.lr': 0.05,
    'finetune.momentum': 0.9,
    'finetune.scope': 'head',
    'finetune.carry': True,
}
HEADS = ('local_similarity', 'cosine')


def make(settings: Any) -> Method:
    """Makes the method."""

    def finetune_loss(outputs, ref_outputs, labels, phase):
        del ref_outputs
        nca = losses.nca(outputs.logits, labels, phase.num_seen)
        return {'nca': (nca, jnp.ones_like(nca))}

    def loss(outputs, ref_outputs, labels, phase):
        spatial = losses.pod_spatial(outputs.maps, ref_outputs.maps)
        flat = losses.less_forget(outputs.features, ref_outputs.features)
        num_new = jnp.maximum(phase.num_seen - phase.num_old, 1)
        # In phase 0 there is nothing to distil from.
        num_seen = jnp.asarray(phase.num_seen, flat.dtype)
        growth = jnp.where(phase.num_old > 0, jnp.sqrt(num_seen / num_new), 0)
        ones = jnp.ones_like(flat)
        return {
            **finetune_loss(outputs, ref_outputs, labels, phase),
            'pod_spatial': (settings.spatial_weight * growth * spatial, ones),
            'pod_flat': (settings.flat_weight * growth * flat, ones),
        }

    return Method(
        loss=loss,
        uses_reference=True,
        predictor='finetuned',
        finetune_loss=finetune_loss,
    )
