"""The subsets on which a run trained: their changes, their classes, and samples of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.data.open_files import nothing_left_open
from lipt_cords.data.steadiness import spread

SHOWN = 12
"""Samples that are shown with the largest and with the smallest weights."""
PIXELS = 48
"""Longest side of a shown image."""


@dataclass
class SubsetHistory:
    """The subsets of a run, in order.

    Attributes:
        epochs: at which each was chosen.
        overlaps: Jaccard index of each with the one before; the first has none.
        accuracies: fraction of the subset and of the pool that the selecting model classifies
            correctly, if the selector measured it.
        cuts: share of the hardest samples that was left out of each, if the selector cuts.
        indices: of the latest, in the order of choice.
        weights: of the latest, one per index.
        scores: of the latest, one per index, if its selector has them.
    """

    epochs: list[int] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    accuracies: list[list[float] | None] = field(default_factory=list)
    cuts: list[float | None] = field(default_factory=list)
    indices: Tensor | None = None
    weights: Tensor | None = None
    scores: Tensor | None = None

    def add(
        self,
        epoch: int,
        indices: Tensor,
        weights: Tensor,
        accuracies: tuple[float | None, float | None] = (None, None),
        cut: float | None = None,
        scores: Tensor | None = None,
    ) -> None:
        """Add a subset.

        Args:
            epoch: at which it was chosen.
            indices: (k,) into the pool; one that is named twice counts once.
            weights: (k,).
            accuracies: of the subset and of the pool, with the selecting model.
            cut: share of the hardest samples that was left out.
            scores: (k,), or None.
        """
        if self.indices is not None:
            self.overlaps.append(round(jaccard(self.indices, indices), 4))
        self.epochs.append(epoch)
        self.cuts.append(None if cut is None else float(cut))
        subset, pool = accuracies
        known = subset is not None and pool is not None
        self.accuracies.append([float(subset or 0), float(pool or 0)] if known else None)
        self.indices, self.weights = indices.long().clone(), weights.float().clone()
        self.scores = None if scores is None else scores.clone()

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        return {
            name: list(value) if isinstance(value, list) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SubsetHistory:
        """Rebuild it from a state."""
        return cls(**state)

    def summary(
        self, dataset: Dataset[Any], labels: Tensor, names: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        """The report of the subsets, as plain JSON types; None if there was none.

        Args:
            dataset: the pool; images are shown where its items are images.
            labels: of the pool, (N,).
            names: of the classes.
        """
        if self.indices is None or self.weights is None:
            return None
        classes = int(labels.max()) + 1
        order = torch.argsort(self.weights, descending=True, stable=True)
        alike = bool((self.weights == self.weights[0]).all())
        # Chosen class by class: the first ones would all be of one class.
        some = order[spread(len(order), 2 * SHOWN)]
        ends = some if alike else torch.cat([order[:SHOWN], order[SHOWN:][-SHOWN:]])
        with nothing_left_open(dataset):
            images = [thumbnail(dataset, int(self.indices[place])) for place in ends.tolist()]
        shown = [
            {
                "index": int(self.indices[place]),
                "label": _name(int(labels[self.indices[place]]), names),
                "weight": round(float(self.weights[place]), 5),
                "png": image,
            }
            for place, image in zip(ends.tolist(), images, strict=True)
        ]
        return {
            "size": len(self.indices),
            "pool": len(labels),
            "epochs": self.epochs,
            "overlaps": self.overlaps,
            "accuracies": self.accuracies,
            "cuts": self.cuts,
            "class_counts": torch.bincount(labels[self.indices], minlength=classes).tolist(),
            "pool_class_counts": torch.bincount(labels, minlength=classes).tolist(),
            "class_names": [_name(label, names) for label in range(classes)],
            "weights_alike": alike,
            "shown": shown,
        }


def jaccard(one: Tensor, other: Tensor) -> float:
    """Size of the intersection over that of the union.

    >>> jaccard(torch.tensor([1, 2, 3]), torch.tensor([3, 4]))
    0.25
    """
    first, second = set(one.tolist()), set(other.tolist())
    return len(first & second) / max(1, len(first | second))


def thumbnail(dataset: Dataset[Any], index: int) -> str | None:
    """An item as a small PNG in base64, or None if it is not an image.

    Colours are those before normalisation if the data set has ``mean`` and ``std``, else they are
    scaled to the item's own range.
    """
    item = dataset[index]
    image = item[0] if isinstance(item, tuple | list) else None
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):
        return None
    if image.numel() == 0:
        return None
    pixels = image.detach().cpu().float()
    mean, std = getattr(dataset, "mean", None), getattr(dataset, "std", None)
    if isinstance(mean, Tensor) and isinstance(std, Tensor) and len(mean) == len(pixels):
        pixels = pixels * std.cpu()[:, None, None] + mean.cpu()[:, None, None]
    else:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low).clamp(min=1e-12)
    side = max(pixels.shape[1:])
    if side > PIXELS:
        size = [max(1, round(part * PIXELS / side)) for part in pixels.shape[1:]]
        pixels = torch.nn.functional.interpolate(pixels[None], size=size, mode="area")[0]
    drawn = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(2)
    buffer = io.BytesIO()
    Image.fromarray(drawn.numpy()).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)
