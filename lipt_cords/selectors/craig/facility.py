"""Greedy facility location on squared distances between gradients.

The value of a set S is sum_j max_{i in S} (D_max - D_ij). Greedy needs, at every step, the gain of
every candidate; here gains are kept and corrected. When a pick lowers the distance of some points
J to their nearest facility, only J's terms change, so a step costs n |J| instead of n^2, and |J|
shrinks like n / |S|: n^2 log k in all where naive greedy takes n^2 k, with the same choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lipt_cords.selectors.memory import chunk_of
from lipt_cords.selectors.ties import first_best

_BLOCK_BYTES = 1 << 24


class Points(Protocol):
    """What distances are measured between, such as `Atoms`."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def squared_norms(self) -> Tensor:
        """(n,) float64."""
        ...

    def inner(self, where: Tensor) -> Tensor:
        """Inner products of some with all, (rows, n) float64."""
        ...


class Distances:
    """Squared distances D_ij = |G_i|^2 + |G_j|^2 - 2 <G_i, G_j> in float64, kept or recomputed.

    Args:
        points: the n candidates.
        limit: bytes for the (n, n) matrix; when it does not fit, rows are recomputed from the
            factors whenever they are needed.
    """

    def __init__(self, points: Points, limit: int) -> None:
        n = len(points)
        self._points = points
        self._norms = points.squared_norms()
        self.block = chunk_of(n, 24 * n, min(limit, _BLOCK_BYTES))
        self.kept = 8 * n * n + 24 * n * self.block <= limit
        self._matrix: Tensor | None = None
        if self.kept:
            self._matrix = torch.empty(n, n, dtype=torch.float64, device=points.device)
        largest = torch.zeros((), dtype=torch.float64, device=points.device)
        sums = []
        for rows in torch.split(torch.arange(n, device=points.device), self.block):
            block = self._computed(rows)
            largest = torch.maximum(largest, block.max())
            sums.append(block.sum(dim=1))
            if self._matrix is not None:
                self._matrix[rows] = block
        self.largest = float(largest)
        self.sums = torch.cat(sums)

    def __len__(self) -> int:
        return len(self._norms)

    def rows(self, where: Tensor) -> Tensor:
        """Distances of some candidates to all, (rows, n)."""
        return self._computed(where) if self._matrix is None else self._matrix[where]

    def _computed(self, where: Tensor) -> Tensor:
        block = self._points.inner(where).mul(-2.0)
        block.add_(self._norms).add_(self._norms[where, None]).clamp_(min=0.0)
        block[torch.arange(len(where), device=where.device), where] = 0.0
        return block

    def similarities(self) -> Tensor:
        """D_max - D, (n, n), for an engine that wants the whole kernel."""
        every = torch.arange(len(self), device=self._norms.device)
        return self.largest - self.rows(every)


@dataclass
class Facilities:
    """What greedy chose.

    Attributes:
        picks: candidates in order of choice.
        gains: what each added to the value.
        sizes: how many points each chosen one represents; they add up to n.
        value: the facility-location value reached.
    """

    picks: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    sizes: Tensor = field(default_factory=lambda: torch.zeros(0))
    value: float = 0.0


def greedy_facilities(distances: Distances, budget: int) -> Facilities:
    """Choose ``budget`` of n candidates greedily; the lowest index wins ties."""
    n = len(distances)
    nearest = torch.full_like(distances.sums, distances.largest)
    gains = n * distances.largest - distances.sums
    scale = n * distances.largest
    found = Facilities()
    for _ in range(budget):
        pick = first_best(gains, scale)
        found.picks.append(pick)
        found.gains.append(max(0.0, float(gains[pick])))
        row = distances.rows(torch.tensor([pick], device=gains.device))[0]
        moved = torch.nonzero(row < nearest).flatten()
        for part in torch.split(moved, distances.block):
            before, after = nearest[part, None], row[part, None]
            terms = distances.rows(part)
            # max(0, before - D) - max(0, after - D) = before - clamp(D, after, before)
            torch.clamp(terms, min=after, max=before, out=terms)
            gains += terms.sum(dim=0)
            gains -= before.sum()
        nearest[moved] = row[moved]
        gains[pick] = -math.inf
    return assigned(found, distances)


def assigned(found: Facilities, distances: Distances) -> Facilities:
    """Cluster sizes: every point goes to its nearest pick, the earlier one on ties.

    A pick stands for itself even when an earlier one is its exact duplicate.
    """
    picks = torch.tensor(found.picks, device=distances.sums.device)
    nearest = torch.full_like(distances.sums, math.inf)
    owner = torch.zeros(len(distances), dtype=torch.int64, device=picks.device)
    start = 0
    for part in torch.split(picks, distances.block):
        least, which = distances.rows(part).min(dim=0)
        closer = least < nearest
        owner[closer] = which[closer] + start
        nearest = torch.minimum(nearest, least)
        start += len(part)
    owner[picks] = torch.arange(len(picks), device=picks.device)
    found.sizes = torch.bincount(owner, minlength=len(picks)).double()
    found.value = float((distances.largest - nearest).sum())
    return found
