"""Rows of numbers as they are, every column standardised over a sample of the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lipt_cords.data.batches import Inputs
from lipt_cords.models.features.kinds import (
    FeatureMap,
    Samples,
    alone,
    register_features,
    token_ids,
    unfit,
)

FITTED = 100_000
"""Rows that mean and deviation are taken from."""


def is_row(inputs: Any) -> bool:
    """Whether an input is one row of numbers, alone in a dict too if it is of floats."""
    if isinstance(inputs, Mapping):
        inputs = alone(inputs)
    return isinstance(inputs, Tensor) and inputs.ndim == 1 and token_ids(inputs) is None


@register_features("columns", fits=is_row)
def columns(samples: Samples) -> FeatureMap:
    """The columns of a table, each with mean 0 and deviation 1; constant columns become 0."""
    some = _rows(samples.draw(FITTED))
    rows = some.flatten(1).cpu().double()
    mean, std = rows.mean(dim=0), rows.std(dim=0, correction=0)
    scale = torch.where(std > 1e-12 * (1 + mean.abs()), 1 / std, 0.0)

    def apply(inputs: Inputs) -> Tensor:
        return ((_rows(inputs).flatten(1).cpu().double() - mean) * scale).float()

    return FeatureMap(apply, rows.shape[1])


def _rows(inputs: Any) -> Tensor:
    rows = alone(inputs) if isinstance(inputs, Mapping) else inputs
    if not isinstance(rows, Tensor) or rows.ndim < 2:
        raise unfit("columns", "one tensor of numbers a sample, in a dict one of floats", inputs)
    return rows
