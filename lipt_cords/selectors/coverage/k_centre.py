"""k-centre: the farthest sample is as near as can be."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.selectors.coverage.methods import register_coverage


@register_coverage("k-centre")
def k_centre(rows: Tensor, budget: int, draws: torch.Generator) -> Tensor:
    """Adds the sample farthest from all chosen ones, the first near the mean (Gonzalez, 1985)."""
    nearest = (rows - rows.mean(dim=0)).square().sum(dim=1)
    picks = torch.empty(budget, dtype=torch.int64)
    pick = int(nearest.argmin())
    nearest = torch.full_like(nearest, torch.inf)
    for step in range(budget):
        picks[step] = pick
        nearest = torch.minimum(nearest, (rows - rows[pick]).square().sum(dim=1))
        nearest[pick] = -1.0
        pick = int(nearest.argmax())
    return picks
