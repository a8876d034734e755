"""Herding: a subset whose mean follows the mean of all."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.selectors.coverage.methods import register_coverage


@register_coverage("herding")
def herding(rows: Tensor, budget: int, draws: torch.Generator) -> Tensor:
    """Adds the sample that brings the subset's mean nearest to the mean of all (Welling, 2009)."""
    target = rows.double().mean(dim=0)
    lengths = (rows * rows).sum(dim=1, dtype=torch.float64)
    total = torch.zeros_like(target)
    taken = torch.zeros(len(rows), dtype=torch.bool)
    picks = torch.empty(budget, dtype=torch.int64)
    for step in range(budget):
        # |(total + x) / (step + 1) - target|^2 up to a constant and a factor
        missing = (step + 1) * target - total
        distances = lengths - 2 * (rows @ missing.float()).double()
        distances[taken] = torch.inf
        pick = int(distances.argmin())
        picks[step], taken[pick] = pick, True
        total += rows[pick]
    return picks
