"""Images kept decoded as bytes: a small image set is one tensor, read by index without a loader."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset


class ImageTensors(Dataset[tuple[Tensor, int]]):
    """A decoded image data set: uint8 images and labels in memory, normalised when read.

    Args:
        images: uint8, shape (N, C, H, W).
        labels: integers, shape (N,).
        mean: mean of each channel in [0, 1], shape (C,); measured on these images if not given.
        std: standard deviation of each channel, shape (C,); likewise.

    >>> data = ImageTensors(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3))
    >>> image, label = data[2]
    >>> image.shape, label
    (torch.Size([1, 8, 8]), 2)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise ValueError(
                "expected uint8 images of shape (N, C, H, W), received "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        if len(images) != len(labels):
            raise ValueError(
                f"expected one label an image, received {len(images)} images and "
                f"{len(labels)} labels"
            )
        self.images = images
        self.labels = labels.to(torch.int64)
        measured = channel_statistics(images) if mean is None or std is None else (mean, std)
        self.mean = measured[0] if mean is None else mean
        self.std = measured[1] if std is None else std
        shape = (images.shape[1], 1, 1)
        self._scale = (1 / (255 * self.std)).reshape(shape).to(images.device)
        self._shift = (self.mean / self.std).reshape(shape).to(images.device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._normalised(self.images[index]), int(self.labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Items for a DataLoader's batch, normalised together rather than one by one."""
        images, labels = self.gather(torch.as_tensor(indices))
        return list(zip(images.unbind(0), labels.tolist(), strict=True))

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read many items at once: float32 images (B, C, H, W) and int64 labels (B,).

        The values are those of ``__getitem__``, bit for bit.
        """
        where = indices.to(self.images.device)
        labels = self.labels.index_select(0, indices.to(self.labels.device))
        return self._normalised(self.images.index_select(0, where)), labels

    def select(self, indices: Tensor) -> ImageTensors:
        """The data set of some of the items, in the order given, with the same normalisation."""
        return ImageTensors(self.images[indices], self.labels[indices], self.mean, self.std)

    def normalised_as(self, mean: Tensor, std: Tensor) -> ImageTensors:
        """The same items with another normalisation."""
        return ImageTensors(self.images, self.labels, mean, std)

    def statistics(self, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over all images or some."""
        return channel_statistics(self.images if indices is None else self.images[indices])

    def to(self, device: torch.device | str) -> ImageTensors:
        """The same items with images and labels on a device."""
        return ImageTensors(self.images.to(device), self.labels.to(device), self.mean, self.std)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).mul_(self._scale).sub_(self._shift)


def channel_statistics(images: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images, in [0, 1], chunk by chunk.

    A constant channel gets a standard deviation of 1, so that normalising keeps it finite.
    """
    if len(images) == 0:
        return torch.zeros(images.shape[1]), torch.ones(images.shape[1])
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in torch.split(images, chunk):
        values = part.to(torch.float32)
        total += values.mean(dim=(2, 3)).double().sum(dim=0)
        squares += values.square().mean(dim=(2, 3)).double().sum(dim=0)
    mean = total / (255 * len(images))
    std = (squares / (255**2 * len(images)) - mean.square()).clamp_min(0).sqrt()
    return mean.float(), torch.where(std < 1e-6, torch.ones_like(std), std).float()
