"""Random convolution features of images: patches of the pool itself are the filters.

As Coates and Ng used them (2011): patches drawn from the images are normalised, whitened and taken
as filters; responses are rectified on both sides and averaged over a grid. Nothing is trained, and
a linear or kernel classifier on them separates small natural images better than a net that was
trained for a few epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lipt_cords.base.devices import convolves_in_bfloat16
from lipt_cords.base.randomness import generator
from lipt_cords.data.batches import Inputs
from lipt_cords.models.features.kinds import (
    FeatureMap,
    Samples,
    alone,
    register_features,
    unfit,
)

FILTERS = 96
"""A multiple of 16: processors compute so many at once."""
PATCH = 6
GRID = 3
"""Responses are averaged over this many cells a side."""
SIDE = 32
"""Larger images are averaged down until their shorter side has so many pixels."""
THRESHOLD = 0.5
FIT_IMAGES, FIT_PATCHES = 1_000, 20_000
SMALLEST_CONTRAST = 0.01
"""Added to a patch's variance, over the variance of all pixels."""
SMALLEST_EIGENVALUE = 0.1
"""Added to the eigenvalues of the patches, over their mean."""
LARGEST = 1e6
"""Pixels of more deviations than that are taken as so many."""
PIECE = 64
"""Images at once: what their responses take stays in the cache."""


def is_image(inputs: Any) -> bool:
    """Whether an input is an image of channels, height and width."""
    if isinstance(inputs, Mapping):
        inputs = alone(inputs)
    return isinstance(inputs, Tensor) and inputs.ndim == 3 and min(inputs.shape[-2:]) >= 4


@register_features("patches", fits=is_image)
def patches(samples: Samples) -> FeatureMap:
    """Responses to 96 whitened patches of the pool, rectified both ways, on a grid of 3 by 3.

    Patches are centred and of one contrast: how bright a whole image is they do not see.
    """
    some = shrunk(_images(samples.draw(FIT_IMAGES)))
    scale = _scale(some)
    draws = generator(samples.seed, "features", "patches")
    filters = _fitted((some.cpu() * scale).clamp_(-LARGEST, LARGEST), draws)

    def responses(images: Tensor) -> Tensor:
        return torch.cat([_responses(part, filters, scale) for part in torch.split(images, PIECE)])

    fitted = responses(some)
    mean, std = fitted.mean(dim=0), fitted.std(dim=0, correction=0)
    spread = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), 1 / std, 0.0)

    def apply(inputs: Inputs) -> Tensor:
        return (responses(_images(inputs)) - mean) * spread

    return FeatureMap(apply, len(mean))


def brightness(inputs: Inputs) -> Tensor:
    """What patches do not see: mean and deviation of every channel, (B, 2 C) float64."""
    pixels = _images(inputs).double().flatten(2)
    return torch.cat([pixels.mean(dim=2), pixels.std(dim=2, correction=0)], dim=1)


def _images(inputs: Any) -> Tensor:
    images = alone(inputs) if isinstance(inputs, Mapping) else inputs
    if not isinstance(images, Tensor) or images.ndim != 4 or min(images.shape[-2:]) < 4:
        raise unfit("patches", "images (C, H, W) of at least 4 by 4 pixels", inputs)
    return images


def _scale(images: Tensor) -> float:
    """What brings pixels to variance 1; a few images of huge values are left out of it."""
    variance = images.var()
    if not bool(torch.isfinite(variance)):
        variance = images.double().flatten(1).var(dim=1).median()
    return float(variance.clamp(min=1e-12).rsqrt())


@dataclass(frozen=True)
class _Filters:
    """Filters (K, C, P, P) that whiten a patch of contrast 1 and mean 0, and what they add."""

    weight: Tensor
    bias: Tensor


def shrunk(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in float32, averaged down to a shorter side of 32 pixels."""
    images = images.float()
    height, width = images.shape[-2:]
    factor = min(height, width) / SIDE
    if factor <= 1:
        return images
    return F.interpolate(images, size=(round(height / factor), round(width / factor)), mode="area")


def _patch_size(images: Tensor) -> int:
    """6 pixels; fewer where the grid of cells would not fit."""
    return max(2, min(PATCH, min(images.shape[-2:]) - GRID + 1))


def _fitted(images: Tensor, draws: torch.Generator) -> _Filters:
    """Filters of patches drawn from images of variance 1."""
    size, channels = _patch_size(images), images.shape[1]
    drawn = torch.cat(list(_drawn(images, size, draws)))
    drawn = drawn - drawn.mean(dim=1, keepdim=True)
    drawn = drawn * (drawn.var(dim=1, correction=0, keepdim=True) + SMALLEST_CONTRAST).rsqrt()
    mean = drawn.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(drawn.T))
    floor = SMALLEST_EIGENVALUE * float(values.mean()) + 1e-12
    whiten = (vectors * (values.clamp(min=0) + floor).rsqrt()) @ vectors.T
    chosen = (drawn[torch.randperm(len(drawn), generator=draws)[:FILTERS]] - mean) @ whiten
    weight = F.normalize(chosen, dim=1) @ whiten
    bias = -(weight @ mean)
    weight = weight - weight.mean(dim=1, keepdim=True)  # takes a patch's mean away
    return _Filters(weight.reshape(-1, channels, size, size), bias)


def _drawn(images: Tensor, size: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Patches (P, C size size) at random places."""
    count = math.ceil(FIT_PATCHES / len(images))
    high, wide = images.shape[-2] - size + 1, images.shape[-1] - size + 1
    offsets = torch.arange(size)
    for image in images:
        rows = torch.randint(high, (count, 1, 1), generator=draws) + offsets[:, None]
        columns = torch.randint(wide, (count, 1, 1), generator=draws) + offsets
        yield image[:, rows, columns].transpose(0, 1).flatten(1)


def _responses(images: Tensor, filters: _Filters, scale: float) -> Tensor:
    """(B, F) float32 on the CPU."""
    images = (shrunk(images) * scale).clamp_(-LARGEST, LARGEST)
    weight, bias = filters.weight.to(images.device), filters.bias.to(images.device)
    dtype = torch.bfloat16 if convolves_in_bfloat16(images.device) else torch.float32
    first, second = (
        _patch_means(one.mean(dim=1), weight.shape[-1]) for one in (images, images * images)
    )
    contrast = ((second - first * first).clamp(min=0) + SMALLEST_CONTRAST).rsqrt()
    found = F.conv2d(_channels_last(images.to(dtype)), _channels_last(weight.to(dtype)))
    bias = bias[:, None, None].to(dtype)
    signed = F.softshrink(torch.addcmul(bias, found, contrast[:, None].to(dtype)), THRESHOLD)
    difference = F.adaptive_avg_pool2d(signed, GRID).float()
    total = F.adaptive_avg_pool2d(signed.abs_(), GRID).float()
    # What is above the threshold, and what is below its negative.
    return torch.cat([total + difference, total - difference], dim=1).flatten(1).cpu() / 2


def _patch_means(images: Tensor, size: int) -> Tensor:
    """Means of all patches of images (B, H, W), (B, H - size + 1, W - size + 1)."""
    for dim in (1, 2):
        count = images.shape[dim] - size + 1
        total = images.narrow(dim, 0, count).clone()
        for start in range(1, size):
            total += images.narrow(dim, start, count)
        images = total / size
    return images


def _channels_last(images: Tensor) -> Tensor:
    """The same numbers with channels next to each other in memory: of several times the speed.

    Images of one channel lie so anyway, and only their strides tell torch to go on like that.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    channels, height, width = images.shape[1:]
    if channels > 1:
        return images
    return images.as_strided(images.shape, (height * width, 1, width, 1))
