"""Importance sampling: hard samples more often, weighted so that the mean gradient stays right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_scores
from lipt_cords.selectors.grouping import Group, batch_means, batch_members, groups_of
from lipt_cords.selectors.norms import gradient_norms


@register_selector("importance", spelling="Importance")
def importance(
    problem: SelectionProblem, *, scores: Tensor | None = None, smoothing: float = 0.1
) -> Choice:
    """Samples drawn with probability in proportion to their gradient norm, weighted 1 / p.

    Each group draws exactly its budget, without replacement, by systematic sampling in random
    order: sample i is chosen with probability p_i = min(1, c s_i), c such that the p_i add up to
    the budget. With weights budget / (N p_i) the mean of ``weights * gradient`` is an unbiased
    estimate of the pool's mean gradient, whatever the scores (Horvitz and Thompson, 1952); scores
    near the gradient norms keep its variance low.

    Args:
        problem: the pool's gradients. With ``per="batch"`` whole batches are drawn by their mean
            score; cutting the last one to the budget makes the estimate inexact there.
        scores: (N,) non-negative scores to use instead of the gradient norms.
        smoothing: this fraction of the group's mean score is added to every score, so that no
            weight exceeds about 1 / smoothing; 0 for pure norms. Samples with score 0 are then
            drawn only when the others do not fill the budget.

    Returns:
        Samples in ascending order within each class, with weights; scores are the p_i.

    Raises:
        ValueError: negative scores or smoothing.
    """
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"expected smoothing >= 0, and finite, received {smoothing}")
    if scores is None:
        scores = gradient_norms(problem, problem.linear_layer)
    values = check_scores("scores", scores, len(problem))
    if bool((values < 0).any()):
        raise ValueError("expected non-negative scores, received a negative one")
    if problem.per == "batch":
        return _drawn_batches(problem, values, smoothing)
    parts, chances = [], []
    for group in groups_of(problem):
        picked, chance = _drawn(problem, group, values[group.members], smoothing)
        parts.append(group.members[picked])
        chances.append(chance)
    chance_k = torch.cat(chances)
    weights = (problem.budget / len(problem)) / chance_k
    return Choice(torch.cat(parts), weights, chance_k, {"largest_weight": float(weights.max())})


def inclusion_probabilities(scores: Tensor, budget: int) -> Tensor:
    """p_i = min(1, c s_i) with sum ``budget``; zeros share what the positive ones leave.

    >>> inclusion_probabilities(torch.tensor([8.0, 1.0, 1.0], dtype=torch.float64), 2)
    tensor([1.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    positive = scores > 0
    if int(positive.sum()) <= budget:
        left = len(scores) - int(positive.sum())
        share = (budget - int(positive.sum())) / left if left else 1.0
        return torch.where(positive, 1.0, torch.tensor(share, dtype=torch.float64))
    ordered = torch.sort(scores, descending=True, stable=True).values
    tails = ordered.flip(0).cumsum(0).flip(0)
    # The first m scores are certain: the smallest m for which the next one is below 1.
    spare = budget - torch.arange(len(scores), dtype=torch.float64)
    below = (spare > 0) & (spare * ordered < tails)
    certain = int(below.int().argmax())
    scale = float(spare[certain] / tails[certain])
    return (scores * scale).clamp(max=1.0)


def systematic_sample(chances: Tensor, budget: int, start: float, order: Tensor) -> Tensor:
    """Exactly ``budget`` positions, position i with probability ``chances[i]``.

    The chances are laid end to end in a given order; the points start, start + 1, ... pick.

    Args:
        chances: (n,) in [0, 1], adding up to the budget.
        budget: how many to pick.
        start: uniform in [0, 1).
        order: permutation of the positions.

    Returns:
        (budget,) positions, ascending.
    """
    ends = chances[order].cumsum(0)
    ends *= budget / float(ends[-1])
    points = torch.arange(budget, dtype=torch.float64) + start
    # A point rounded up to the very end belongs to the last position that can be drawn.
    last = int(torch.nonzero(chances[order])[-1])
    hits = torch.searchsorted(ends, points, right=True).clamp(max=last)
    # Rounding can send two points into one certain position; the next free one takes the second.
    distinct = torch.unique_consecutive(hits)
    if len(distinct) < budget:
        free = torch.ones(len(order), dtype=torch.bool)
        free[distinct] = False
        spare = torch.nonzero(free & (chances[order] > 0)).flatten()
        distinct = torch.cat([distinct, spare[: budget - len(distinct)]])
    return torch.sort(order[distinct]).values


def _drawn(
    problem: SelectionProblem, group: Group, scores: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    chances = inclusion_probabilities(scores + smoothing * scores.mean(), group.budget)
    draws = generator(problem.seed, "importance", -1 if group.label is None else group.label)
    order = torch.randperm(len(scores), generator=draws)
    start = float(torch.rand((), generator=draws, dtype=torch.float64))
    picked = systematic_sample(chances, group.budget, start, order)
    return picked, chances[picked]


def _drawn_batches(problem: SelectionProblem, values: Tensor, smoothing: float) -> Choice:
    members = batch_members(problem)
    count = min(len(members), -(-problem.budget // problem.batch_size))
    while True:
        whole = Group(torch.arange(len(members)), count)
        picked, chance = _drawn(problem, whole, batch_means(values, problem.batch_size), smoothing)
        if sum(len(members[i]) for i in picked.tolist()) >= problem.budget:
            break
        count += 1
    parts = [members[i] for i in picked.tolist()]
    lengths = torch.tensor([len(part) for part in parts])
    indices = torch.cat(parts)[: problem.budget]
    chance_k = torch.repeat_interleave(chance, lengths)[: problem.budget]
    weights = (problem.budget / len(problem)) / chance_k
    return Choice(indices, weights, chance_k, {"largest_weight": float(weights.max())})
