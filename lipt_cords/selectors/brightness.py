"""Whether brightness, which patches do not see, tells images apart better than they do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.base.randomness import generator
from lipt_cords.models.features.extract import Features
from lipt_cords.models.features.kinds import Samples
from lipt_cords.models.features.patches import brightness
from lipt_cords.selectors.closed_form.ridge import OutOfSample, leave_one_out

IMAGES, LANDMARKS = 500, 200
DEVIATIONS = 3.0
"""By which brightness must be ahead, in McNemar's test."""


def doubt_about(
    known: OutOfSample, dataset: Dataset[Any], asked: object, found: Features, seed: int = 0
) -> str | None:
    """What a user must know of predictions by features: one sentence, or None.

    Args:
        known: the predictions.
        dataset: the samples.
        asked: the features as the user asked for them; patches that he brings himself are his own.
        found: what was taken.
        seed: of the images that are looked at.
    """
    unseen = None
    if isinstance(asked, str) and found.kind == "patches":
        unseen = unseen_brightness(dataset, known, seed)
    return unseen or known.warning


def unseen_brightness(dataset: Dataset[Any], known: OutOfSample, seed: int = 0) -> str | None:
    """A warning where brightness tells some images apart that patches do not.

    Mean and deviation of every channel predict at most 500 images, each from the others; patches
    have predicted the same images already. A data set whose classes differ by light alone would be
    chosen from by chance, without a sign of it.

    Args:
        dataset: images of one shape, with labels.
        known: predictions by their patches.
        seed: of the draw.

    Returns:
        The warning; None where patches are as good.
    """
    draws = generator(seed, "brightness")
    some = torch.randperm(len(known), generator=draws)[:IMAGES].sort().values
    rows = torch.cat([brightness(chunk) for chunk in Samples(dataset, "cpu").chunks(some)])
    labels = known.labels[some]
    if len(labels.unique()) < 2 or bool((rows == rows[0]).all()):  # type: ignore[no-untyped-call]
        return None
    light = leave_one_out(_standardised(rows), labels, kernel="rbf", landmarks=LANDMARKS, seed=seed)
    by_light, by_patches = light.likely == labels, known.likely[some] == labels
    ahead, behind = int((by_light & ~by_patches).sum()), int((by_patches & ~by_light).sum())
    if ahead - behind <= DEVIATIONS * (ahead + behind) ** 0.5:
        return None
    return (
        f"how bright images are tells {light.accuracy:.0%} of their labels, and patches, which do "
        f"not see it, tell {float(by_patches.double().mean()):.0%}: take features='columns', the "
        "pixels as they are, or a trained net"
    )


def _standardised(rows: Tensor) -> Tensor:
    """Columns of mean 0 and deviation 1; constant ones become 0."""
    deviation = rows.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-9 * rows.abs().amax(dim=0), 1 / deviation, 0.0)
    return ((rows - rows.mean(dim=0)) * scale).float()
