"""The samples nearest to k-means centres."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator
from lipt_cords.selectors.closed_form.kernel import nearest, squared_distances
from lipt_cords.selectors.coverage.methods import register_coverage
from lipt_cords.selectors.grouping import largest_remainder

MOST = 50
"""Of larger budgets, rows are first divided into cells of about so many: the cost stays linear."""
CELLS, FITTED = 200, 10_000
"""Cells at most, and the rows that they are fitted to."""
ITERATIONS = 10
COMPARED = 65_536
"""Rows that are compared at once."""


@register_coverage("kmeans", random=True)
def kmeans(rows: Tensor, budget: int, draws: torch.Generator) -> Tensor:
    """The samples nearest to the centres of k-means with as many clusters as the budget."""
    first = first_of_equals(rows)
    if budget <= MOST or len(first) <= budget:
        return _covered(rows, first, budget, draws)
    cells = min(CELLS, -(-budget // MOST))
    some = rows[torch.randperm(len(rows), generator=draws)[:FITTED].sort().values]
    cell_of = nearest(rows, _centres(some, cells, draws))
    parts = []
    different = torch.bincount(cell_of[first], minlength=cells)
    for cell, share in enumerate(largest_remainder(different, budget).tolist()):
        members = (cell_of == cell).nonzero().flatten()
        for piece, count in _pieces(members, share):
            own = rows[piece]
            parts.append(piece[_covered(own, first_of_equals(own), count, draws)])
    return torch.cat(parts)


def first_of_equals(rows: Tensor) -> Tensor:
    """The first position of every different row, ascending.

    Rows are compared with their neighbours along a random direction. The products themselves do not
    tell: those of equal rows may be rounded otherwise, by where the rows stand.
    """
    direction = torch.randn(rows.shape[1], generator=generator(0, "distinct"), dtype=torch.float64)
    along = torch.cat([part.double() @ direction for part in torch.split(rows, COMPARED)])
    order = torch.sort(along, stable=True).indices
    other = torch.ones(len(rows), dtype=torch.bool)
    for start in range(1, len(rows), COMPARED):
        here = slice(start, start + COMPARED)
        before = order[start - 1 : start - 1 + len(order[here])]
        other[here] = (rows[order[here]] != rows[before]).any(dim=1)
    which = other.cumsum(dim=0) - 1
    first = torch.full((int(which[-1]) + 1,), len(rows))
    return first.scatter_reduce(0, which, order, "amin").sort().values


def _covered(rows: Tensor, first: Tensor, budget: int, draws: torch.Generator) -> Tensor:
    """Without cells; ``first`` are the positions of different rows."""
    if len(first) > budget:
        return nearest_each(_centres(rows, budget, draws), rows)
    # Each different row, then some that equal one of them.
    others = torch.ones(len(rows), dtype=torch.bool)
    others[first] = False
    more = others.nonzero().flatten()
    more = more[torch.randperm(len(more), generator=draws)[: budget - len(first)]]
    return torch.cat([first, more])


def _pieces(members: Tensor, share: int) -> list[tuple[Tensor, int]]:
    """A cell, cut in order where it is much larger than the others, and the share of each piece."""
    if share == 0:
        return []
    pieces = list(torch.chunk(members, -(-share // (2 * MOST))))
    shares = largest_remainder(torch.tensor([len(one) for one in pieces]), share)
    return [(one, count) for one, count in zip(pieces, shares.tolist(), strict=True) if count]


def _centres(rows: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Centres (count, F) of Lloyd's iterations; one that has no rows stays where it is."""
    size = rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)  # squares stay finite
    rows = rows / size
    centres = _spread(rows, count, draws)
    before = None
    for _ in range(ITERATIONS):
        closest = nearest(rows, centres)
        if before is not None and torch.equal(closest, before):
            break
        before, members = closest, torch.bincount(closest, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, closest, rows)
        centres = torch.where(members > 0, sums / members.clamp(min=1), centres)
    return centres * size


def _spread(rows: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """First centres, far from each other: greedy k-means++ (Arthur and Vassilvitskii, 2007).

    Each is the best of a few rows that are drawn with a probability that follows the squared
    distance to the earlier ones.
    """
    trials = 2 + int(math.log(count))
    lengths = (rows * rows).sum(dim=1)
    found = torch.empty(count, dtype=torch.int64)
    found[0] = torch.randint(len(rows), (1,), generator=draws)
    away = (lengths + lengths[found[0]] - 2 * (rows @ rows[found[0]])).clamp_(min=0.0)
    places = torch.rand(count, trials, generator=draws)
    for place in range(1, count):
        along = away.cumsum(dim=0)
        drawn = torch.searchsorted(along, places[place] * along[-1]).clamp_(max=len(rows) - 1)
        tried = torch.addmm(lengths[drawn, None] + lengths, rows[drawn], rows.T, alpha=-2.0)
        tried = torch.minimum(tried.clamp_(min=0.0), away)
        best = tried.sum(dim=1).argmin()
        found[place], away = drawn[best], tried[best]
    return rows[found]


def nearest_each(centres: Tensor, rows: Tensor) -> Tensor:
    """For each centre the nearest row that no other centre took; the nearest pairs go first."""
    distances = squared_distances(centres, rows)
    smallest, closest = distances.min(dim=1)
    order = smallest.argsort(stable=True)
    taken: dict[int, None] = {}
    for centre in order.tolist():
        pick = int(closest[centre])
        if pick in taken:
            row = distances[centre]
            row[list(taken)] = torch.inf
            pick = int(row.argmin())
        taken[pick] = None
    return torch.tensor(list(taken))
