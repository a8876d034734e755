"""The report of a selection: what it did, what it cost, and whether it is suspect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from lipt_cords.data.source import BatchSource
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.base import Selection

ReadGradients = Callable[[BatchSource], LastLayerGradients]


@dataclass(frozen=True)
class SelectionReport:
    """What a selection did and cost; seconds are wall time, bytes those of the gradients."""

    strategy: str
    selection_type: str
    epoch: int
    """The loader's ``cur_epoch`` when it selected."""
    budget: int
    pool: int
    """Samples to choose from."""
    gradient_seconds: float
    """Reading the data and one forward pass over it."""
    selection_seconds: float
    gradient_bytes: int | None
    """Factored gradients of the pool and, where they are needed, of the validation set; None if
    they were not measured."""
    subset_accuracy: float | None
    """Fraction of the subset that the model classifies correctly; None if it was not measured."""
    pool_accuracy: float | None
    """The same of the pool."""
    warning: str | None
    """Set when the first is far below the second: the alarm of a bad selection."""
    info: dict[str, Any] = field(default_factory=dict)
    """The selector's own account: objective, fallbacks, which memory path was taken."""

    @property
    def seconds(self) -> float:
        """Wall time in all."""
        return self.gradient_seconds + self.selection_seconds

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return {**asdict(self), "seconds": self.seconds}


def report_on(
    selection: Selection,
    pool: LastLayerGradients,
    *,
    strategy: str,
    selection_type: str,
    epoch: int,
    gradient_seconds: float,
    gradient_bytes: int,
    has_logits: bool = True,
) -> SelectionReport:
    """The report of a selection from a pool, the alarm included where there are logits."""
    accuracy = subset_accuracy(pool, selection.indices) if has_logits else None
    return SelectionReport(
        strategy=strategy,
        selection_type=selection_type,
        epoch=epoch,
        budget=len(selection),
        pool=len(pool),
        gradient_seconds=gradient_seconds,
        selection_seconds=selection.seconds,
        gradient_bytes=gradient_bytes,
        subset_accuracy=None if accuracy is None else accuracy.subset,
        pool_accuracy=None if accuracy is None else accuracy.pool,
        warning=None if accuracy is None else accuracy.warning,
        info=selection.info,
    )


FAR_LOWER = 0.5
"""A subset is suspect below this share of the pool's fraction of correctly classified samples."""


DEVIATIONS = 3.0
"""And only where a random subset of its size would not come that low: standard deviations."""


@dataclass(frozen=True)
class SubsetAccuracy:
    """Fractions that the selecting model classifies correctly.

    >>> SubsetAccuracy(subset=0.2, pool=0.7, size=200).far_lower
    True
    >>> SubsetAccuracy(subset=0.0, pool=0.1, size=20).far_lower
    False
    """

    subset: float
    """Of the chosen samples, in [0, 1]."""
    pool: float
    """Of all samples, in [0, 1]."""
    size: int
    """Samples in the subset."""

    @property
    def far_lower(self) -> bool:
        """Whether the subset is below half of the pool, by more than chance explains."""
        chance = DEVIATIONS * math.sqrt(self.pool * (1 - self.pool) / self.size)
        return self.subset < FAR_LOWER * self.pool and self.pool - self.subset > chance

    @property
    def warning(self) -> str | None:
        """The warning for the user; None if nothing is suspect."""
        if not self.far_lower:
            return None
        return (
            f"the model classifies {self.subset:.1%} of the subset correctly, but {self.pool:.1%} "
            "of the pool: subsets this hard tend to train worse than random ones. Compare with "
            "a random subset, re-select during training, or choose by 'importance' or 'stratified'"
        )


def subset_accuracy(gradients: LastLayerGradients, indices: Tensor) -> SubsetAccuracy:
    """How often the model that made the gradients is right, on a subset and on the pool.

    Args:
        gradients: of the N samples of the pool.
        indices: (k,) positions in the pool, at least one.
    """
    correct_N = gradients.correct().float().cpu()
    return SubsetAccuracy(
        subset=float(correct_N[indices.cpu()].mean()),
        pool=float(correct_N.mean()),
        size=len(indices),
    )
