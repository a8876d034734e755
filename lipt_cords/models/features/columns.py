"""Rows of numbers as they are, every column standardised over a sample of the rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipt_cords.models.features.kinds import FeatureMap, Samples, register_features, token_ids

FITTED = 100_000
"""Rows that mean and deviation are taken from."""


def is_row(inputs: Any) -> bool:
    """Whether an input is one row of numbers."""
    return isinstance(inputs, Tensor) and inputs.ndim == 1 and token_ids(inputs) is None


@register_features("columns", fits=is_row)
def columns(samples: Samples) -> FeatureMap:
    """The columns of a table, each with mean 0 and deviation 1; constant columns become 0."""
    some = samples.draw(FITTED)
    if not isinstance(some, Tensor) or some.ndim < 2:
        raise ValueError(
            "features 'columns' need one tensor of numbers a sample: convert the items, or bring "
            "features of your own"
        )
    rows = some.flatten(1).double()
    mean, std = rows.mean(dim=0), rows.std(dim=0, correction=0)
    scale = torch.where(std > 1e-12 * (1 + mean.abs()), 1 / std, 0.0)

    def apply(inputs: Tensor) -> Tensor:
        return ((inputs.flatten(1).double() - mean) * scale).float().cpu()

    return FeatureMap(apply, rows.shape[1])
