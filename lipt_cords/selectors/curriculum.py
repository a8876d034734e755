"""From easy to all: a fresh subset every epoch, out of an ever larger share of the pool."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_fraction, check_positive, check_scores
from lipt_cords.selectors.difficulty import scored
from lipt_cords.selectors.grouping import batch_means, batch_members, groups_of
from lipt_cords.selectors.memory import byte_limit
from lipt_cords.selectors.random_subsets import fresh_slice


@register_selector("curriculum", spelling="Curriculum", fresh=True, keeps_scores=True)
def curriculum(
    problem: SelectionProblem,
    *,
    epoch: int = 0,
    epochs: int = 1,
    start: float = 0.5,
    until: float = 0.6,
    score: str = "loss",
    scores: Tensor | None = None,
) -> Choice:
    """A fresh uniform subset of the easiest part of each class, which grows to be all of it.

    The baby steps of curriculum learning (Bengio et al., ICML 2009) with subsets: in epoch e of E
    every class offers its easiest min(1, start + (1 - start) e / (until E)), and the budget is
    drawn from that at random; once all is offered, as `rs2` draws. The order of difficulty should
    come from one model and stay: give the same ``scores`` in every epoch.

    Args:
        problem: its gradients give the difficulties, or labels suffice where ``scores`` are given.
        epoch: which one, from 0.
        epochs: how many there will be.
        start: share of each class, in (0, 1], in the first epoch.
        until: share of the epochs, in [0, 1], after which all of the pool is offered.
        score: which registered difficulty to compute from the gradients, see `difficulty`.
        scores: (N,) difficulties to use instead.

    Returns:
        ``budget`` distinct samples with weight 1; ``info["share"]`` is the share offered.

    Raises:
        ValueError: an option out of range or unknown; scores that do not match.
    """
    epoch = check_positive("epoch + 1", epoch + 1) - 1
    check_positive("epochs", epochs)
    for name, value in (("start", start), ("until", until)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"expected a number as {name}, received {value!r}")
    if not 0 < start <= 1:
        raise ValueError(f"expected start in (0, 1], received {start}")
    check_fraction("until", until, below=1.0 + 1e-9)
    if scores is None:
        scores = scored(problem.gradients, score, byte_limit(problem))
    values = check_scores("scores", scores, len(problem))
    ramp = until * epochs
    share = 1.0 if epoch >= ramp else start + (1 - start) * epoch / ramp
    if share == 1:
        indices = fresh_slice(problem, "curriculum", epoch)
    elif problem.per == "batch":
        batches = batch_members(problem)
        needed = min(len(batches), -(-problem.budget // problem.batch_size) + 1)
        means = batch_means(values, problem.batch_size)
        draws = generator(problem.seed, "curriculum", "easy", epoch, "batch")
        picked = drawn_from_easiest(means, needed, share, draws)
        indices = torch.cat([batches[i] for i in picked.tolist()])[: problem.budget]
    else:
        parts = []
        for group in groups_of(problem):
            label = -1 if group.label is None else group.label
            draws = generator(problem.seed, "curriculum", "easy", epoch, label)
            some = values[group.members]
            parts.append(group.members[drawn_from_easiest(some, group.budget, share, draws)])
        indices = torch.cat(parts)
    return Choice(indices, scores=values[indices], info={"share": share, "epoch": epoch})


def drawn_from_easiest(values: Tensor, budget: int, share: float, draws: torch.Generator) -> Tensor:
    """Positions of a random subset of the lowest share of some values, or of the budget's lowest.

    >>> draws = torch.Generator().manual_seed(0)
    >>> sorted(drawn_from_easiest(torch.tensor([3.0, 1.0, 2.0, 9.0]), 2, 0.5, draws).tolist())
    [1, 2]
    """
    offered = max(budget, round(share * len(values)))
    easiest = torch.sort(values, stable=True).indices[:offered]
    return easiest[torch.randperm(offered, generator=draws)[:budget]]
