"""A module of a user's that makes nets."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

CALLS: list[dict[str, Any]] = []


def make_net(num_classes: int, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes)
    )


def sized(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))


def anything(**options: Any) -> nn.Module:
    CALLS.append(options)
    return sized(**options)


def fixed() -> nn.Module:
    return sized(10, 1, 8)


@cache
def kept(num_classes: int) -> nn.Module:
    return sized(num_classes, 1, 8)


def picky(depth: int) -> nn.Module:
    return nn.Linear(depth, 2)


def nothing(num_classes: int) -> list[int]:
    return [num_classes]


ready = nn.Linear(3, 2)
