"""Small data and nets that the tests of the warm start share."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.selectors.dynamics import TrainingDynamics


def make_net(seed: int = 0, classes: int = 4, dropout: float = 0.2) -> nn.Module:
    """A tiny net with a convolution, BatchNorm, dropout and a linear head."""
    with isolated_rng(seed, "test net"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(36, classes),
        )


def make_images(count: int, seed: int = 0, classes: int = 4) -> TensorDataset:
    """Learnable images: noise, and a bright bar whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    images = torch.randn(count, 1, 8, 8, generator=generator) * 0.7
    images[torch.arange(count), 0, 2 * labels] += 1.5
    return TensorDataset(images, labels)


class Streamed(Dataset):
    """Items with fresh noise at every read, so that they cannot be kept in memory."""

    def __init__(self, base: TensorDataset) -> None:
        self.base = base
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index):
        self.read.append(index)
        image, label = self.base[index]
        return image + 0.01 * torch.randn(image.shape), int(label)


class Dicts(Dataset):
    """The same items as dicts, as text data sets give them."""

    def __init__(self, base: TensorDataset) -> None:
        self.base = base

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index):
        image, label = self.base[index]
        return {"image": image, "labels": label}


def same_log(one: TrainingDynamics, two: TrainingDynamics) -> bool:
    """Whether two logs of training dynamics have the same bits; NaN equals NaN."""
    pairs = ((getattr(one, part), getattr(two, part)) for part in vars(one))
    return all(torch.equal(a.nan_to_num(-9e9), b.nan_to_num(-9e9)) for a, b in pairs)
