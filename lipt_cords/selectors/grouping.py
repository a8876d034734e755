"""Where the choice is made: within each class, over the pool, or among whole batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lipt_cords.selectors.base import SelectionProblem

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Group:
    """Candidates that compete for a share of the budget.

    Attributes:
        members: (n,) int64, ascending indices into the pool.
        budget: how many of them to choose, at least 1.
        label: the class, or None when the group is the whole pool.
    """

    members: Tensor
    budget: int
    label: int | None = None


def largest_remainder(sizes: Tensor, budget: int) -> Tensor:
    """Share a budget in proportion to sizes, in whole numbers that add up exactly.

    Every group gets the floor of its share; what is left goes to the largest fractions, the
    earlier group first on ties. No group gets more than its size while budget <= sum of sizes.

    Args:
        sizes: (groups,) int64, non-negative.
        budget: what to share, at most the sum.

    >>> largest_remainder(torch.tensor([5, 3, 2]), 3)
    tensor([1, 1, 1])
    >>> largest_remainder(torch.tensor([6, 6]), 5)
    tensor([3, 2])
    """
    total = int(sizes.sum())
    shares = torch.div(sizes * budget, total, rounding_mode="floor")
    remainders = sizes * budget - shares * total
    order = torch.argsort(remainders, descending=True, stable=True)
    shares[order[: budget - int(shares.sum())]] += 1
    return shares


def class_shares(sizes: Tensor, budget: int) -> Tensor:
    """Share a budget in proportion to the sizes of classes, at least one for each where it can be.

    Classes that :func:`largest_remainder` leaves out get one sample, and the others share the rest
    in proportion. A budget below the number of classes is shared in proportion alone.

    Args:
        sizes: (classes,) int64, at least 1.
        budget: what to share, at most the sum.

    >>> class_shares(torch.tensor([990, 2, 2, 2]), 50)
    tensor([47,  1,  1,  1])
    >>> class_shares(torch.tensor([990, 2, 2, 2]), 3)
    tensor([3, 0, 0, 0])
    """
    shares = largest_remainder(sizes, budget)
    if budget < len(sizes):
        return shares
    while bool((shares == 0).any()):
        # Whoever has one may keep no more: else a small class could rise above a larger one.
        large = shares > 1
        shares = torch.ones_like(sizes)
        shares[large] = largest_remainder(sizes[large], budget - int((~large).sum()))
    return shares


def class_members(labels: Tensor) -> list[tuple[int, Tensor]]:
    """Indices of every class that occurs, ascending, by one stable sort."""
    order = torch.argsort(labels, stable=True)
    names, counts = torch.unique_consecutive(labels[order], return_counts=True)
    return list(zip(names.tolist(), torch.split(order, counts.tolist()), strict=True))


def groups_of(problem: SelectionProblem) -> list[Group]:
    """The groups of a per-class or pool-wide selection; those without budget are left out."""
    if problem.per == "all":
        return [Group(torch.arange(len(problem)), problem.budget)]
    classes = class_members(problem.labels)
    budgets = class_shares(torch.tensor([len(m) for _, m in classes]), problem.budget)
    return [
        Group(members, budget, label)
        for (label, members), budget in zip(classes, budgets.tolist(), strict=True)
        if budget > 0
    ]


def batch_members(problem: SelectionProblem) -> list[Tensor]:
    """Indices of every batch of consecutive samples; the last one may be short."""
    return list(torch.split(torch.arange(len(problem)), problem.batch_size))


def fewest_batches(
    problem: SelectionProblem, choose: Callable[[int], Answer], picks: Callable[[Answer], Tensor]
) -> Answer:
    """Choose as few batches as hold the budget: one more where the short one is among them.

    Args:
        problem: whose budget and batches are meant.
        choose: makes the choice of a number of batches.
        picks: the batches of a choice, in order.
    """
    sizes = batch_sizes(len(problem), problem.batch_size)
    answer = choose(-(-problem.budget // problem.batch_size))
    if int(sizes[picks(answer)].sum()) < problem.budget:
        del answer  # it may be large
        answer = choose(-(-problem.budget // problem.batch_size) + 1)
    return answer


def batch_sizes(samples: int, batch_size: int) -> Tensor:
    """(B,) float64 sizes of the batches of consecutive samples."""
    full, short = divmod(samples, batch_size)
    return torch.tensor([batch_size] * full + [short] * bool(short), dtype=torch.float64)


def batch_means(values_N: Tensor, batch_size: int) -> Tensor:
    """Means over consecutive batches, (B,); the last batch may be short.

    >>> batch_means(torch.tensor([1.0, 3.0, 5.0]), 2)
    tensor([2., 5.])
    """
    full = len(values_N) // batch_size
    means = values_N[: full * batch_size].view(full, batch_size).mean(dim=1)
    if full * batch_size == len(values_N):
        return means
    return torch.cat([means, values_N[full * batch_size :].mean(dim=0, keepdim=True)])


def spread_batches(
    problem: SelectionProblem, chosen: Tensor, weights: Tensor, scores: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Chosen batches as samples, the last one cut to the budget.

    Args:
        problem: whose budget and batches are meant.
        chosen: (b,) batches in order of choice; together they hold the budget. Those behind the
            budget are left out.
        weights: (b,) multiples of the batch means, on the scale where the sum over the batches
            stands for the sum of all batch means of the pool.
        scores: (b,) or None.

    Returns:
        Samples, their weights on `Selection`'s scale, their scores, and how many samples of the
        last batch were cut off.
    """
    members = batch_members(problem)
    parts: list[Tensor] = []
    left = problem.budget
    for position in chosen.tolist():
        if left == 0:
            break
        parts.append(members[position][:left])
        left -= len(parts[-1])
    count = len(parts)
    lengths = torch.tensor([len(part) for part in parts])
    cut = len(members[int(chosen[count - 1])]) - int(lengths[-1])
    scale = problem.budget / len(members) / lengths.double()
    spread = torch.repeat_interleave(weights[:count].cpu().double() * scale, lengths)
    per_sample = None if scores is None else torch.repeat_interleave(scores[:count].cpu(), lengths)
    return torch.cat(parts), spread, per_sample, cut
