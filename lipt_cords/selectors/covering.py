"""Coverage of what difficulty leaves: samples that stand for the easier part of every class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import generator
from lipt_cords.models.features.extract import check_rows
from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_fraction, check_scores
from lipt_cords.selectors.closed_form.judge import SubsetJudge
from lipt_cords.selectors.closed_form.kernel import nearest
from lipt_cords.selectors.closed_form.principal import of_moderate_size
from lipt_cords.selectors.coverage import COVERAGES
from lipt_cords.selectors.coverage.kmeans import first_of_equals
from lipt_cords.selectors.coverage.methods import CoverageFunction
from lipt_cords.selectors.difficulty import scored
from lipt_cords.selectors.grouping import (
    Group,
    batch_means,
    batch_members,
    fewest_batches,
    groups_of,
)
from lipt_cords.selectors.memory import byte_limit
from lipt_cords.selectors.trials import Pilot, as_trial, candidate_cuts, chosen_cut, mean_trial

MOST_DRAWS, FEW = 5, 1_000
"""Of smaller subsets several draws are judged: 5 of up to 200 samples, 1 from 501 on."""
CUTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Cuts that are compared where none is given."""


@register_selector("covering", spelling="Covering", untrained=True)
def covering(
    problem: SelectionProblem,
    *,
    features: Tensor | None = None,
    cut: float | str = "auto",
    method: str = "kmeans",
    score: str = "margin",
    scores: Tensor | None = None,
    pilot: Pilot | None = None,
    pilot_cuts: Sequence[float] = CUTS,
    weighted: bool = False,
) -> Choice:
    """Samples that cover the easier part of each group, as much of it as the budget can learn.

    Difficulty alone repeats easy samples, and coverage alone takes outliers and wrong labels; each
    mends the other. Within each group the hardest part is cut, and ``method`` covers the rest by
    distances between rows of features. Few samples want a large cut, many want none; the cut is
    found without training, by ridge regressions on the candidate subsets: the largest that is
    as good as the best one, within half a standard error. Of small subsets several draws are
    judged, and the best one is taken. With a ``pilot`` of trainings it is the smallest cut within
    the error that the pilot returns.

    Args:
        problem: the pool's gradients, or labels with ``features`` and ``scores``.
        features: (N, F) rows in which distances are measured, such as those of
            `lipt_cords.features`; None: the embeddings.
        cut: fraction of each group to leave out at the hard end, in [0, 1), never so much that the
            budget would not fit; ``"auto"``: by ``pilot``.
        method: ``"kmeans"``, ``"herding"``, ``"facility-location"``, ``"k-centre"`` or another
            registered one.
        score: the registered difficulty that is computed from the gradients.
        scores: (N,) difficulties to use instead, such as ``leave_one_out(...).margin``.
        pilot: tells what a subset is worth; None: the accuracy of a ridge regression on it
            (`lipt_cords.selectors.closed_form.judge`).
        pilot_cuts: the candidates; 0 is added when absent.
        weighted: weigh each sample by how many of its group it stands for; else, and among
            batches, all weigh 1.

    Returns:
        Samples with their difficulties as scores. ``info["cut"]`` is the cut, ``info["pilot"]``
        what each candidate was worth.

    Raises:
        ValueError: an option out of range or unknown, rows or scores that do not match, labels
            without features or scores.
    """
    COVERAGES.entry(method)
    given = _embeddings(problem) if features is None else features
    rows = of_moderate_size(check_rows(given, len(problem), vary=False))
    if scores is None:
        if problem.pool is None:
            raise ValueError(
                "covering with labels alone needs scores=, such as leave_one_out(...).margin"
            )
        scores = scored(problem.gradients, score, byte_limit(problem))
    values = check_scores("scores", scores, len(problem))
    groups = groups_of(problem) if problem.per != "batch" else []

    def subset(fraction: float, draw: int = 0) -> Tensor:
        return _covered(problem, groups, rows, values, fraction, method, draw)

    info: dict[str, Any]
    if cut != "auto":
        if isinstance(cut, str):
            raise unknown_name("cut of covering", cut, ("auto", "a fraction in [0, 1)"))
        fraction, info = check_fraction("cut", cut), {"evidence": "given"}
        indices = subset(fraction)
    else:
        judge = SubsetJudge.of_pool(rows, problem.labels, problem.seed) if pilot is None else pilot
        by_regression = isinstance(judge, SubsetJudge)
        draws = _draws(method, problem.budget) if by_regression else 1
        cuts = candidate_cuts(pilot_cuts)
        drawn = {one: [subset(one, draw) for draw in range(draws)] for one in cuts}
        trials = {one: [as_trial(judge(some)) for some in drawn[one]] for one in cuts}
        means = {one: mean_trial(trials[one]) for one in cuts}
        fraction, info = chosen_cut(means, largest=by_regression)
        info |= {"draws": draws} | ({"evidence": "ridge regression"} if by_regression else {})
        best = max(range(draws), key=lambda draw: trials[fraction][draw].worth)
        indices = drawn[fraction][best]
    info |= {"cut": fraction, "coverage": method, **_repeats(rows, problem.budget)}
    weights = _stood_for(groups, rows, indices, len(problem)) if weighted and groups else None
    return Choice(indices, weights, scores=values[indices], info=info)


def _embeddings(problem: SelectionProblem) -> Tensor:
    if problem.pool is None:
        raise ValueError(
            "covering with labels alone needs features=, such as features(dataset).values"
        )
    return problem.pool.embeddings


def _draws(method: str, budget: int) -> int:
    """How many subsets of a cut are judged."""
    return min(MOST_DRAWS, max(1, FEW // budget)) if COVERAGES.entry(method).facts["random"] else 1


def _covered(
    problem: SelectionProblem,
    groups: Sequence[Group],
    rows: Tensor,
    values: Tensor,
    cut: float,
    method: str,
    draw: int,
) -> Tensor:
    cover = COVERAGES[method]
    if problem.per == "batch":
        return _covered_batches(problem, rows, values, cut, cover, draw)

    def of(group: Group) -> Tensor:
        members, count = group.members, len(group.members)
        kept = max(group.budget, count - int(cut * count))
        easy = torch.sort(values[members], stable=True).indices[:kept].sort().values
        members = members[easy]
        label = -1 if group.label is None else group.label
        draws = generator(problem.seed, "covering", label, *([draw] if draw else []))
        return members[cover(rows[members], group.budget, draws)]

    # One thread a group: its products are too small for more.
    count = torch.get_num_threads()
    with threadpool_limits(limits=1), ThreadPoolExecutor(count, initializer=_one_thread) as threads:
        return torch.cat(list(threads.map(of, groups)))


def _one_thread() -> None:
    """Keep the torch of this thread to it."""
    torch.get_num_threads()  # torch sets its number when it is first asked in a thread
    threadpool_limits(limits=1)


def _covered_batches(
    problem: SelectionProblem,
    rows: Tensor,
    values: Tensor,
    cut: float,
    cover: CoverageFunction,
    draw: int,
) -> Tensor:
    """The same among batches, by their means; the last one is cut to the budget."""
    members = batch_members(problem)
    means = torch.stack([rows[batch].mean(dim=0) for batch in members])
    order = torch.sort(batch_means(values, problem.batch_size), stable=True).indices

    def batches(count: int) -> Tensor:
        kept = order[: max(count, len(order) - int(cut * len(order)))].sort().values
        draws = generator(problem.seed, "covering", "batch", draw)
        return kept[cover(means[kept], count, draws)]

    picked = fewest_batches(problem, batches, lambda picks: picks)
    return torch.cat([members[batch] for batch in picked.tolist()])[: problem.budget]


def _repeats(rows: Tensor, budget: int) -> dict[str, str]:
    """A warning where equal rows must be chosen beside each other."""
    distinct = len(first_of_equals(rows))
    if distinct >= budget:
        return {}
    return {
        "warning": f"only {distinct} samples have different features, fewer than the budget of "
        f"{budget}: equal ones are chosen beside each other"
    }


def _stood_for(groups: Sequence[Group], rows: Tensor, indices: Tensor, count: int) -> Tensor:
    """Weights: how many samples of its group are nearest to each chosen one."""
    weights, start = torch.empty(len(indices)), 0
    for group in groups:
        chosen = slice(start, start + group.budget)
        closest = nearest(rows[group.members], rows[indices[chosen]])
        weights[chosen] = torch.bincount(closest, minlength=group.budget).float()
        start += group.budget
    return weights * (len(indices) / count)
