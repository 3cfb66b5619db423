"""PyTorch version of the ResNet for CIFAR, with our weights."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mnemonics_jax.types import Variables


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; no final ReLU."""

    def __init__(self, width_in: int, width: int) -> None:
        """Downsamples by 2 if the width changes."""
        super().__init__()
        stride = 1 if width_in == width else 2
        self.first = conv_norm(width_in, width, 3, stride)
        self.second = conv_norm(width, width, 3, 1)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = conv_norm(width_in, width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, Ci, H, W] to [B, Co, h, w]."""
        y = self.second(functional.relu(self.first(x)))
        return y + self.shortcut(x)


def conv_norm(width_in: int, width: int, side: int, stride: int) -> nn.Module:
    """Convolution without bias, and BatchNorm."""
    convolution = nn.Conv2d(
        width_in, width, side, stride, padding=side // 2, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


class Network(nn.Module):
    """The trunk with LUCIR's cosine head."""

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        """Takes the widths of stem and blocks, and the number of classes."""
        super().__init__()
        self.stem = conv_norm(3, widths[0], 3, 1)
        self.blocks = nn.ModuleList(
            itertools.starmap(Block, itertools.pairwise(widths))
        )
        self.rows = nn.Parameter(torch.zeros(num_classes, widths[-1]))
        self.sigma = nn.Parameter(torch.ones(()))
        self.register_buffer('mean', torch.zeros(1, 3, 1, 1))
        self.register_buffer('std', torch.ones(1, 3, 1, 1))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Features [B, D] of images [B, 3, H, W] in [0, 1]."""
        x = self.stem((images - self.mean) / self.std)
        for block in self.blocks:
            x = block(functional.relu(x))
        return x.mean((2, 3))

    def forward(
        self, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [B, K], cosines [B, K] and features [B, D]."""
        features = self.embed(images)
        cosines = cosine(features, self.rows)
        return self.sigma * cosines, cosines, features


def cosine(features: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Cosines [B, K] of features [B, D] and rows [K, D]."""
    return functional.linear(
        functional.normalize(features), functional.normalize(rows)
    )


def make_network(
    variables: Variables,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: str = 'cpu',
) -> Network:
    """The network with a copy of our variables, in channels-last memory.

    Args:
        variables: variables of a CIFAR ResNet with the cosine head.
        mean: mean of each channel.
        std: standard deviation of each channel.
        device: PyTorch device.
    """
    trunk, head = variables.params['trunk'], variables.params['head']
    count = sum(name.startswith('_BasicBlock') for name in trunk)
    outputs = [trunk['ConvNorm_0']] + [
        trunk[f'_BasicBlock_{i}']['ConvNorm_1'] for i in range(count)
    ]
    widths = [part['Conv_0']['kernel'].shape[-1] for part in outputs]
    network = Network(widths, len(head['kernel']))

    def fill(tensor, value):
        tensor.copy_(torch.tensor(np.asarray(value)).reshape(tensor.shape))

    with torch.no_grad():
        for path, (convolution, norm) in conv_norms(network):
            params = functools.reduce(dict.__getitem__, path, dict(trunk))
            kernel = np.asarray(params['Conv_0']['kernel'])
            fill(convolution.weight, kernel.transpose(3, 2, 0, 1))
            fill(norm.weight, params['BatchNorm_0']['scale'])
            fill(norm.bias, params['BatchNorm_0']['bias'])
            stats = functools.reduce(
                dict.__getitem__, path, dict(variables.batch_stats)
            )
            fill(norm.running_mean, stats['BatchNorm_0']['mean'])
            fill(norm.running_var, stats['BatchNorm_0']['var'])
        fill(network.rows, head['kernel'])
        fill(network.sigma, head['sigma'])
        fill(network.mean, mean)
        fill(network.std, std)
    return network.to(device, memory_format=torch.channels_last)


def conv_norms(network: Network) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each convolution with its norm, and their path in our trees."""
    yield ('ConvNorm_0',), network.stem
    for i, block in enumerate(network.blocks):
        parts = [block.first, block.second, block.shortcut]
        for j, part in enumerate(parts):
            if not isinstance(part, nn.Identity):
                yield (f'_BasicBlock_{i}', f'ConvNorm_{j}'), part


def params_of(network: Network) -> dict[str, Any]:
    """A copy of the parameters in our tree structure and layout."""

    def array(parameter):
        return parameter.detach().cpu().numpy().copy()

    trunk: dict[str, Any] = {}
    for path, (convolution, norm) in conv_norms(network):
        place = functools.reduce(lambda d, k: d.setdefault(k, {}), path, trunk)
        kernel = array(convolution.weight).transpose(2, 3, 1, 0)
        place['Conv_0'] = {'kernel': kernel}
        place['BatchNorm_0'] = {
            'scale': array(norm.weight),
            'bias': array(norm.bias),
        }
    head = {'kernel': array(network.rows), 'sigma': array(network.sigma)}
    return {'trunk': trunk, 'head': head}
