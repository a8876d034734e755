"""Coverage of difficulties with the hardest tail cut off, by as much as the budget calls for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import generator
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_fraction, check_positive, check_scores
from lipt_cords.selectors.difficulty import scored
from lipt_cords.selectors.grouping import batch_means, batch_members, fewest_batches, groups_of
from lipt_cords.selectors.memory import byte_limit
from lipt_cords.selectors.random_subsets import random_subset
from lipt_cords.selectors.stratified_cuts import chosen_by_rule
from lipt_cords.selectors.trials import Pilot, as_trial, candidate_cuts, chosen_cut

BIN_NAMES = ("quantile", "width")
CUTS = (0.0, 0.1, 0.2, 0.3, 0.5)
"""Cuts that a pilot compares where none is given."""


@register_selector("stratified", spelling="Stratified")
def stratified(
    problem: SelectionProblem,
    *,
    cut: float | str = "auto",
    strata: int = 50,
    bins: Literal["quantile", "width"] = "quantile",
    score: str = "loss",
    scores: Tensor | None = None,
    accuracy: float | None = None,
    expected_accuracy: float | None = None,
    pilot: Pilot | None = None,
    pilot_cuts: Sequence[float] = CUTS,
) -> Choice:
    """A random subset spread evenly over difficulty, without the hardest tail.

    Coverage-centric selection (Zheng et al., ICLR 2023): within each group the hardest fraction
    is cut, the rest is divided into strata of difficulty, and the budget is shared equally
    among strata, small ones first, so that what a small one cannot take goes to the others.

    How much to cut depends on how well the budget covers the task: cutting half is worth ten
    points at 1 % of CIFAR-10 and costs points on Fashion-MNIST. With ``cut="auto"`` the cut is
    chosen on evidence, no cut being among the candidates: by ``pilot`` if there is one, else by
    the rule of `lipt_cords.selectors.stratified_cuts.suggested_cut`. Where it says not to cut, the
    subset is the one that ``select("random")`` draws with the same seed: then no method was better.

    Args:
        problem: the pool's gradients; validation gradients, if given, give the rule the model's
            accuracy on samples that it has not seen.
        cut: fraction of each group to leave out at the hard end, in [0, 1), or ``"auto"``. Never
            so much that the budget would not fit.
        strata: at most this many; never more than the group's budget.
        bins: ``"quantile"``, strata of equal size, whose union is representative of what is left
            after the cut; ``"width"``, strata of equal width in score, as published, which prefer
            rare difficulties, hence hard samples.
        score: which registered difficulty to compute from the gradients, see `difficulty`.
        scores: (N,) difficulties to use instead, for instance held out.
        accuracy: accuracy in [0, 1] of the model that scored, on samples it has not seen; None
            takes it from the validation gradients, or else from the pool's.
        expected_accuracy: accuracy in [0, 1] that training on a random subset of this size is
            known to reach; better evidence for the rule than the model's accuracy.
        pilot: trains on the samples it is given and returns their worth (validation accuracy),
            or (worth, sample-passes spent), or these and the worth's standard error. It is called
            once per candidate cut; of those within one error of the best the smallest is taken.
        pilot_cuts: the candidates for the pilot; 0 is added when absent.

    Returns:
        Samples with weight 1; scores are their difficulties. ``info["cut"]`` is the cut,
        ``info["evidence"]`` why it was taken, ``info["pilot_passes"]`` what it cost.

    Raises:
        ValueError: an option out of range or unknown; scores that do not match.
    """
    if bins not in BIN_NAMES:
        raise unknown_name("bins of stratified", bins, BIN_NAMES)
    check_positive("strata", strata)
    if scores is None:
        scores = scored(problem.gradients, score, byte_limit(problem))
    values = check_scores("scores", scores, len(problem))

    def subset(fraction: float) -> Tensor:
        if cut == "auto" and fraction == 0:
            return random_subset(problem).indices
        return _covered(problem, values, fraction, strata, bins)

    evidence: dict[str, Any]
    if cut != "auto":
        if isinstance(cut, str):
            raise unknown_name("cut of stratified", cut, ("auto", "a fraction in [0, 1)"))
        fraction, evidence = check_fraction("cut", cut), {"evidence": "given"}
    elif pilot is not None:
        trials = {one: as_trial(pilot(subset(one))) for one in candidate_cuts(pilot_cuts)}
        fraction, evidence = chosen_cut(trials)
    else:
        fraction, evidence = chosen_by_rule(problem, accuracy, expected_accuracy)
    indices = subset(fraction)
    return Choice(indices, scores=values[indices], info={"cut": fraction, **evidence})


def _covered(
    problem: SelectionProblem, values: Tensor, cut: float, strata: int, bins: str
) -> Tensor:
    if problem.per == "batch":
        members = batch_members(problem)
        means = batch_means(values, problem.batch_size)

        def batches(count: int) -> Tensor:
            draws = generator(problem.seed, "stratified", "batch")
            return stratified_sample(means, count, cut, strata, bins, draws)

        picked = fewest_batches(problem, batches, lambda picks: picks)
        return torch.cat([members[i] for i in picked.tolist()])[: problem.budget]
    parts = []
    for group in groups_of(problem):
        draws = generator(problem.seed, "stratified", -1 if group.label is None else group.label)
        some = values[group.members]
        picked = stratified_sample(some, group.budget, cut, strata, bins, draws)
        parts.append(group.members[picked])
    return torch.cat(parts)


def stratified_sample(
    values: Tensor, budget: int, cut: float, strata: int, bins: str, draws: torch.Generator
) -> Tensor:
    """Positions of a subset spread over the values below the cut.

    Args:
        values: (n,) difficulties.
        budget: how many, at most n.
        cut: fraction left out at the top, lowered if the budget needs the room.
        strata: number of strata at most.
        bins: ``"quantile"`` or ``"width"``.
        draws: generator of the draws within strata.

    Returns:
        (budget,) positions, stratum by stratum from easy to hard.
    """
    kept = max(budget, len(values) - int(cut * len(values)))
    # Among equals at the cut the higher index goes first, so ties keep the lowest.
    order = torch.sort(values, stable=True).indices[:kept]
    count = min(strata, budget)
    if bins == "quantile":
        edges = torch.arange(count + 1) * kept // count
        sizes = edges.diff()
    else:
        ordered = values[order]
        low, high = ordered[0], ordered[-1]
        width = (high - low).clamp(min=torch.finfo(ordered.dtype).tiny)
        which = ((ordered - low) / width * count).long().clamp(max=count - 1)
        sizes = torch.bincount(which, minlength=count)
    shares = equal_shares(sizes, budget)
    parts, start = [], 0
    for size, share in zip(sizes.tolist(), shares.tolist(), strict=True):
        picked = torch.randperm(size, generator=draws)[:share]
        parts.append(order[start + picked])
        start += size
    return torch.cat(parts)


def equal_shares(sizes: Tensor, budget: int) -> Tensor:
    """The budget shared equally among strata, small ones first; none gets more than it holds.

    >>> equal_shares(torch.tensor([10, 1, 10]), 9)
    tensor([4, 1, 4])
    """
    shares = torch.zeros_like(sizes)
    left = budget
    for turn, stratum in enumerate(torch.argsort(sizes, stable=True).tolist()):
        shares[stratum] = min(int(sizes[stratum]), left // (len(sizes) - turn))
        left -= int(shares[stratum])
    return shares
