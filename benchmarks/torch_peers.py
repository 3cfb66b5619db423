"""Idiomatic PyTorch versions of this project's functions.

The training step, the unrolled bilevel step, herding and evaluation of the
network in torch_network.py. Inputs and results are NumPy arrays, images
f32[B, H, W, C] in [0, 1]. Inputs are moved to the device before the work is
timed. Needs the extra `bench`.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch_network
from timing import Work
from torch.func import functional_call
from torch.nn import functional


class Margin(NamedTuple):
    """Inputs of LUCIR's loss; see `mnemonics_jax.methods.lucir`.

    Attributes:
        reference: the previous phase's network.
        num_old: number of its classes.
        weight: weight lambda of the less-forget term.
        margin: margin of the ranking loss.
        top_k: number of rivals in the ranking loss.
    """

    reference: torch_network.Network
    num_old: int
    weight: float
    margin: float = 0.5
    top_k: int = 2


def train_steps(
    network: torch_network.Network,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    lucir: Margin | None = None,
    compiled: bool = False,
) -> Work:
    """Steps of SGD with momentum, one on each batch.

    Each run continues from the state after the last one.

    Args:
        network: the network to train.
        images: f32[n, B, H, W, C], n batches.
        labels: int[n, B].
        lr: learning rate.
        momentum: momentum of PyTorch's `SGD`.
        weight_decay: weight decay of PyTorch's `SGD`.
        lucir: inputs of LUCIR's loss; None for cross entropy.
        compiled: whether to use `torch.compile` for both passes.

    Returns:
        Work with results 'losses' f32[n] before each step, and 'params' after
        the last, in our tree structure.
    """
    device = network.sigma.device
    batches = [_images(batch, device) for batch in images]
    targets = torch.tensor(labels, device=device, dtype=torch.int64)
    optimizer = torch.optim.SGD(
        network.parameters(), lr, momentum, weight_decay=weight_decay
    )

    loss_of = functools.partial(_loss, network, lucir)
    if compiled:
        loss_of = torch.compile(loss_of)
    losses = torch.zeros(len(batches), device=device)

    def run():
        network.train()
        for i, batch in enumerate(batches):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(batch, targets[i])
            loss.backward()
            optimizer.step()
            losses[i] = loss.detach()
        _wait(device)

    def result():
        return {
            'losses': losses.cpu().numpy().copy(),
            'params': torch_network.params_of(network),
        }

    return Work(run, result)


def _loss(network, lucir, images, labels):
    """LUCIR's loss, or cross entropy."""
    if lucir is None:
        return functional.cross_entropy(network(images)[0], labels)
    return _lucir_loss(network, lucir, images, labels)


def _lucir_loss(network, lucir, images, labels):
    """Cross entropy, less-forget and margin ranking on old examples."""
    logits, cosines, features = network(images)
    with torch.no_grad():
        reference = lucir.reference.eval().embed(images)
    forget = 1 - functional.cosine_similarity(features, reference).mean()
    loss = functional.cross_entropy(logits, labels) + lucir.weight * forget
    is_old = labels < lucir.num_old
    if not is_old.any():
        return loss
    truth = cosines[is_old].gather(1, labels[is_old, None])
    rivals = cosines[is_old, lucir.num_old :].topk(lucir.top_k).values
    ranking = functional.relu(lucir.margin - truth + rivals).mean()
    return loss + ranking


def exemplar_step(
    network: torch_network.Network,
    pixels: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    query: tuple[np.ndarray, np.ndarray],
    *,
    inner_lr: float,
    scope: str,
) -> Work:
    """The unrolled bilevel step: pixel gradient of the query loss.

    Args:
        network: network that the inner steps start from.
        pixels: f32[n, H, W, C].
        labels: int[n].
        indices: int[T, b], exemplars of each inner step.
        query: images f32[q, H, W, C] and labels int[q].
        inner_lr: learning rate of the inner SGD steps.
        scope: 'all' trains all parameters, 'head' the head's rows on features
            computed once.

    Returns:
        Work with results 'loss' f32[] and 'grads' f32[n, H, W, C].
    """
    device = network.sigma.device
    exemplars = _images(pixels, device).requires_grad_()
    targets = torch.tensor(labels, device=device, dtype=torch.int64)
    steps = torch.tensor(indices, device=device, dtype=torch.int64)
    query_images = _images(query[0], device)
    query_labels = torch.tensor(query[1], device=device, dtype=torch.int64)
    found = {}

    def run():
        network.eval()
        params = {name: p.detach() for name, p in network.named_parameters()}
        inputs, query_inputs, logits = exemplars, query_images, _whole_logits
        if scope == 'head':
            params = {'rows': params['rows']}
            inputs, query_inputs = map(network.embed, (inputs, query_inputs))
            logits = _head_logits
        batches = [(inputs[index], targets[index]) for index in steps]
        logits = functools.partial(logits, network)
        params = _adapt(logits, params, batches, inner_lr)
        outputs = logits(params, query_inputs)
        loss = functional.cross_entropy(outputs, query_labels)
        found['loss'] = loss.detach()
        (found['grads'],) = torch.autograd.grad(loss, exemplars)
        _wait(device)

    def result():
        grads = found['grads'].permute(0, 2, 3, 1)
        return {
            'loss': found['loss'].cpu().numpy(),
            'grads': grads.cpu().numpy().copy(),
        }

    return Work(run, result)


def _head_logits(network, params, features):
    cosines = torch_network.cosine(features, params['rows'])
    return network.sigma.detach() * cosines


def _whole_logits(network, params, images):
    return functional_call(network, params, (images,))[0]


def _adapt(logits, params, batches, lr):
    """Differentiable steps of plain SGD, one on each batch."""
    params = {name: p.requires_grad_() for name, p in params.items()}
    for inputs, labels in batches:
        loss = functional.cross_entropy(logits(params, inputs), labels)
        grads = torch.autograd.grad(
            loss, tuple(params.values()), create_graph=True
        )
        params = {
            name: p - lr * grad
            for (name, p), grad in zip(params.items(), grads, strict=True)
        }
    return params


def herding(
    features: np.ndarray, num: int, *, device: str = 'cpu', tries: int = 1000
) -> Work:
    """Herding of each class by the usual greedy loop.

    Args:
        features: f32[K, n, D], features of each class.
        num: number of examples to rank, at most n.
        device: PyTorch device.
        tries: maximum steps; the rest is ordered by <mean, feature>.

    Returns:
        Work with result 'ranks' int64[K, num], indices into n, best first.
    """
    classes = [torch.tensor(f, device=device) for f in features]
    found = {}

    def rank(rows):
        rows = functional.normalize(rows)
        mean = rows.mean(0)
        direction, order = mean.clone(), []
        for _ in range(tries):
            if len(order) == num:
                break
            j = int(torch.argmax(rows @ direction))
            if j not in order:
                order.append(j)
            direction += mean - rows[j]
        left = torch.argsort(rows @ mean, descending=True, stable=True)
        rest = [j for j in left.tolist() if j not in order]
        return (order + rest)[:num]

    def run():
        found['ranks'] = [rank(rows) for rows in classes]
        _wait(torch.device(device))

    return Work(run, lambda: {'ranks': np.array(found['ranks'])})


def evaluation(
    network: torch_network.Network,
    images: np.ndarray,
    exemplars: np.ndarray,
    *,
    batch_size: int,
) -> Work:
    """Predictions by the head, and by the nearest mean of exemplars.

    Args:
        network: the network to evaluate.
        images: f32[n, H, W, C], n a multiple of `batch_size`.
        exemplars: f32[K, m, H, W, C], m of each class.
        batch_size: batch size of images and exemplars.

    Returns:
        Work with results 'features' f32[n, D], 'logits' f32[n, K], and the
        predicted classes 'cnn' and 'nme' int64[n].
    """
    device = network.sigma.device
    batches = _images(images, device).split(batch_size)
    flat = exemplars.reshape(-1, *exemplars.shape[2:])
    exemplar_batches = _images(flat, device).split(batch_size)
    found = {}

    @torch.no_grad()
    def run():
        network.eval()
        rows = torch.cat([network.embed(batch) for batch in exemplar_batches])
        rows = functional.normalize(rows).unflatten(0, exemplars.shape[:2])
        means = functional.normalize(rows.mean(1))
        outputs = [network(batch) for batch in batches]
        features = torch.cat([features for _, _, features in outputs])
        logits = torch.cat([logits for logits, *_ in outputs])
        found.update(features=features, logits=logits, cnn=logits.argmax(1))
        # The default uses a matrix product, whose rounding errors exceed the
        # differences of these distances.
        distances = torch.cdist(
            functional.normalize(features),
            means,
            compute_mode='donot_use_mm_for_euclid_dist',
        )
        found['nme'] = distances.argmin(1)
        _wait(device)

    return Work(run, lambda: {k: v.cpu().numpy() for k, v in found.items()})


def _images(images: np.ndarray, device: Any) -> torch.Tensor:
    """[B, H, W, C] as [B, C, H, W] in channels-last memory, without a copy."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2)


def _wait(device: torch.device) -> None:
    """Waits until the device is idle."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
