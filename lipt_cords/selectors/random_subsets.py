"""Random subsets: the baseline that every selector has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_positive
from lipt_cords.selectors.grouping import batch_members, groups_of


@register_selector("random", spelling="Random", labels_only=True)
def random_subset(problem: SelectionProblem) -> Choice:
    """A uniform subset, drawn once; per class it is class-balanced.

    Args:
        problem: labels suffice.

    Returns:
        ``budget`` distinct samples with weight 1.
    """
    return Choice(fresh_slice(problem, "random", 0))


@register_selector("rs2", spelling="RS2", labels_only=True, fresh=True)
def repeated_random(problem: SelectionProblem, *, epoch: int = 0) -> Choice:
    """A fresh uniform subset every epoch, without replacement across epochs.

    RS2 (Okanovic et al., ICLR 2024): a permutation of each group is walked through in slices of
    the budget; when less than a slice is left, the next permutation begins. So no sample comes
    a second time before floor(N / budget) epochs are over. Stateless: the epoch decides.

    Args:
        problem: labels suffice.
        epoch: which slice, from 0.

    Returns:
        ``budget`` distinct samples with weight 1.
    """
    epoch = check_positive("epoch + 1", epoch + 1) - 1
    return Choice(fresh_slice(problem, "rs2", epoch), info={"epoch": epoch})


def fresh_slice(problem: SelectionProblem, name: str, epoch: int) -> Tensor:
    """The slice of an epoch of permutations that the name and the seed draw, group by group."""
    if problem.per == "batch":
        return _drawn_batches(problem, name, epoch)
    parts = []
    for group in groups_of(problem):
        rounds = max(1, len(group.members) // group.budget)
        cycle, turn = divmod(epoch, rounds)
        draws = generator(problem.seed, name, cycle, -1 if group.label is None else group.label)
        order = torch.randperm(len(group.members), generator=draws)
        parts.append(group.members[order[turn * group.budget : (turn + 1) * group.budget]])
    return torch.cat(parts)


def _drawn_batches(problem: SelectionProblem, name: str, epoch: int) -> Tensor:
    batches = batch_members(problem)
    # The number of batches differs with the short one, so a cycle is as long as is always safe.
    needed = -(-problem.budget // problem.batch_size)
    rounds = max(1, len(batches) // (needed + 1))
    cycle, turn = divmod(epoch, rounds)
    order = torch.randperm(len(batches), generator=generator(problem.seed, name, cycle, "batch"))
    rolled = order.roll(-turn * (needed + 1)).tolist()
    return torch.cat([batches[position] for position in rolled])[: problem.budget]
