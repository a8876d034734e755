"""RandAugment on batches that are already on the device, where a worker trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field, field_validator
from torch import Tensor

from lipt_cords.base.options import StrictModel
from lipt_cords.base.registry import Registry
from lipt_cords.data.batches import Inputs

Augment = Callable[[Tensor], Tensor]
"""Changes a batch of images (B, C, H, W); shape, dtype and device stay."""
AugmentationFunction = Callable[["AugmentationOptions", Tensor, Tensor], "Augment | None"]
AUGMENTATIONS: Registry[AugmentationFunction] = Registry(
    "augmentation", takes=("options", "low", "high")
)


def register_augmentation(name: str) -> Callable[[AugmentationFunction], AugmentationFunction]:
    """Register an augmentation under a name.

    The function takes the options of the warm start and the smallest and largest value of every
    image channel, shapes (C,), and returns a function that changes a batch of images. It draws from
    torch's global random state, which belongs to the worker while it trains.

    Args:
        name: must be free.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    return AUGMENTATIONS.register(name)


class AugmentationOptions(StrictModel):
    """How workers' batches are changed."""

    augmentation: str = "none"
    """Augmentation of the workers' batches, only for image tensors: ``none``, ``randaugment``, or a
    registered one of your own."""
    num_ops: int = Field(2, ge=1)
    """RandAugment operations drawn for each group of images."""
    magnitude: int = Field(9, ge=0, le=30)
    """Strength of RandAugment, 0 to 30."""

    @field_validator("augmentation")
    @classmethod
    def _known_augmentation(cls, value: str) -> str:
        return AUGMENTATIONS.entry(value).name


@register_augmentation("none")
def none(options: AugmentationOptions, low: Tensor, high: Tensor) -> None:
    """No augmentation."""


@register_augmentation("randaugment")
def randaugment(options: AugmentationOptions, low: Tensor, high: Tensor) -> Augment:
    """RandAugment (Cubuk et al., 2020), drawn per group of images on the device."""
    return BatchRandAugment(low, high, num_ops=options.num_ops, magnitude=options.magnitude)


GROUP = 8
"""Images that share one draw of operations: more are faster, fewer are more varied."""


class BatchRandAugment:
    """RandAugment (Cubuk et al., 2020) for normalised float images, drawn per group of images.

    torchvision's operations expect colours in [0, 1], so every channel is mapped there by the
    smallest and largest value that the shard holds, and back afterwards. Draws come from the
    global random state: call it under ``isolated_rng``.

    Args:
        low: smallest value of each channel, shape (C,).
        high: largest value of each channel, shape (C,).
        num_ops: operations drawn for each group.
        magnitude: their strength, 0 to 30.
        group: images that share a draw.

    Raises:
        ValueError: the images have neither one nor three channels.
    """

    def __init__(
        self, low: Tensor, high: Tensor, *, num_ops: int, magnitude: int, group: int = GROUP
    ) -> None:
        # This import loads torch's compiler, which takes seconds: only if it is used.
        from torchvision.transforms.v2 import RandAugment

        if len(low) not in (1, 3):
            raise ValueError(
                f"augmentation='randaugment' needs images of 1 or 3 channels, received {len(low)}: "
                "set augmentation='none'"
            )
        self.group = group
        self.low = low.view(1, -1, 1, 1)
        span = (high - low).view(1, -1, 1, 1)
        self.span = torch.where(span > 0, span, torch.ones_like(span))
        self.transform = RandAugment(num_ops=num_ops, magnitude=magnitude)

    def __call__(self, images: Tensor) -> Tensor:
        """Augment a batch (B, C, H, W); shape, dtype, device and value range stay."""
        colours = ((images - self.low) / self.span).clamp_(0, 1)
        groups = [self.transform(part) for part in torch.split(colours, self.group)]
        return torch.cat(groups).mul_(self.span).add_(self.low)


def require_images(inputs: Inputs, augmentation: str = "randaugment") -> Tensor:
    """Check that a batch is made of images that an augmentation can change.

    Raises:
        ValueError: the inputs are a mapping, not four-dimensional, or not floating point.
    """
    if isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point():
        return inputs
    received = (
        f"{inputs.dtype} inputs of shape {tuple(inputs.shape)}"
        if isinstance(inputs, Tensor)
        else "inputs that are a mapping"
    )
    raise ValueError(
        f"augmentation={augmentation!r} needs float image batches (batch, channels, height, "
        f"width), received {received}: set augmentation='none'"
    )
