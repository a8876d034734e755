"""RandAugment on batches that are already on the device, where a worker trains."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.data.batches import Inputs

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
        # Loads torch's compiler with it, which takes seconds: only where it is used.
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


def require_images(inputs: Inputs) -> Tensor:
    """Check that a batch is made of images that RandAugment can change.

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
        "augmentation='randaugment' needs float image batches (batch, channels, height, width), "
        f"received {received}: set augmentation='none'"
    )
