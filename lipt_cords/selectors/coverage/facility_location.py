"""Facility location: every sample has a chosen one near it."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.base.process_memory import free_bytes
from lipt_cords.selectors.coverage.methods import register_coverage
from lipt_cords.selectors.craig.facility import Distances, greedy_facilities


class RowPoints:
    """Rows as points of :class:`Distances`."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows.double()

    @property
    def device(self) -> torch.device:
        """Of the rows."""
        return self._rows.device

    def __len__(self) -> int:
        return len(self._rows)

    def squared_norms(self) -> Tensor:
        """(n,) float64."""
        return self._rows.square().sum(dim=1)

    def inner(self, where: Tensor) -> Tensor:
        """Inner products of some rows with all, (rows, n) float64."""
        return self._rows[where] @ self._rows.T


@register_coverage("facility-location")
def facility_location(rows: Tensor, budget: int, draws: torch.Generator) -> Tensor:
    """Greedy facility location on squared distances: CRAIG's choice, between rows of features."""
    limit = free_bytes(rows.device) // 4
    return torch.tensor(greedy_facilities(Distances(RowPoints(rows), limit), budget).picks)
