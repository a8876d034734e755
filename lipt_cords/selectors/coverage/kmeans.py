"""The samples nearest to k-means centres."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator
from lipt_cords.selectors.closed_form.kernel import nearest, squared_distances
from lipt_cords.selectors.coverage.methods import register_coverage
from lipt_cords.selectors.grouping import largest_remainder

MOST = 10_000
"""Larger groups are first divided into cells of about so many rows: the cost stays linear."""
ITERATIONS = 10


@register_coverage("kmeans", random=True)
def kmeans(rows: Tensor, budget: int, draws: torch.Generator) -> Tensor:
    """The samples nearest to the centres of k-means with as many clusters as the budget."""
    first = first_of_equals(rows)
    if len(first) <= budget:  # each different row, then some that equal one of them
        others = torch.ones(len(rows), dtype=torch.bool)
        others[first] = False
        more = others.nonzero().flatten()
        more = more[torch.randperm(len(more), generator=draws)[: budget - len(first)]]
        return torch.cat([first, more])
    if len(rows) <= MOST:
        return nearest_each(_centres(rows, budget, draws), rows)
    cells = -(-len(rows) // MOST)
    some = rows[torch.randperm(len(rows), generator=draws)[:MOST].sort().values]
    cell_of = nearest(rows, _centres(some, cells, draws))
    parts = []
    sizes = torch.bincount(cell_of, minlength=cells)
    for cell, share in enumerate(largest_remainder(sizes, budget).tolist()):
        members = (cell_of == cell).nonzero().flatten()
        for piece, count in _pieces(members, share):
            parts.append(piece[kmeans(rows[piece], count, draws)])
    return torch.cat(parts)


def first_of_equals(rows: Tensor) -> Tensor:
    """The first position of every different row, ascending; rows are compared by a projection."""
    direction = torch.randn(rows.shape[1], generator=generator(0, "distinct"), dtype=torch.float64)
    _, which = torch.unique(rows.double() @ direction, return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(rows))
    return first.scatter_reduce(0, which, torch.arange(len(rows)), "amin").sort().values


def _pieces(members: Tensor, share: int) -> list[tuple[Tensor, int]]:
    """A cell, cut in order where it is much larger than the others, and the share of each piece."""
    if share == 0:
        return []
    pieces = list(torch.chunk(members, -(-len(members) // MOST)))
    shares = largest_remainder(torch.tensor([len(one) for one in pieces]), share)
    return [(one, count) for one, count in zip(pieces, shares.tolist(), strict=True) if count]


def _centres(rows: Tensor, count: int, draws: torch.Generator) -> Tensor:
    from sklearn.cluster import KMeans  # slow to import, and only needed here

    seed = int(torch.randint(2**31, (), generator=draws))
    found = KMeans(count, n_init=1, max_iter=ITERATIONS, random_state=seed).fit(rows.numpy())
    return torch.from_numpy(found.cluster_centers_)


def nearest_each(centres: Tensor, rows: Tensor) -> Tensor:
    """For each centre the nearest row that no other centre took; the nearest pairs go first."""
    distances = squared_distances(centres, rows)
    picks = torch.empty(len(centres), dtype=torch.int64)
    order = distances.amin(dim=1).argsort(stable=True)
    taken = torch.zeros(len(rows), dtype=torch.bool)
    for centre in order.tolist():
        row = distances[centre]
        row[taken] = torch.inf
        picks[centre] = pick = int(row.argmin())
        taken[pick] = True
    return picks[order]
