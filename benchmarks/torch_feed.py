"""PyTorch peer of the feeds: batches of images from memory.

Needs the extra `bench`.
"""

import numpy as np
import torch
from timing import Work
from torch.utils import data


class _Rows(data.Dataset):
    """Images and labels, one by one."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Arrays of the same length."""
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], self.labels[i]


def feed(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    *,
    batch_size: int,
    device: str = 'cpu',
) -> Work:
    """Batches of an epoch by a `DataLoader`, in this process, to the device.

    Args:
        images: uint8[n, H, W, C].
        labels: int[n].
        order: int[m], order of the epoch, m a multiple of `batch_size`.
        batch_size: batch size.
        device: PyTorch device.

    Returns:
        Work with results 'labels' int[m] and 'images', the last batch.
    """
    loader = data.DataLoader(
        _Rows(images, labels), batch_size, sampler=order.tolist()
    )
    found = {}

    def run():
        labels_found = []
        for batch, batch_labels in loader:
            found['images'] = batch.to(device)
            labels_found.append(batch_labels.to(device))
        found['labels'] = torch.cat(labels_found)
        if found['images'].is_cuda:
            torch.cuda.synchronize()

    return Work(run, lambda: {k: v.cpu().numpy() for k, v in found.items()})
