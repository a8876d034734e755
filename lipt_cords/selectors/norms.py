"""GraNd and EL2N: the samples with the largest gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.selectors.base import Choice, SelectionProblem, register_selector
from lipt_cords.selectors.checks import check_scores
from lipt_cords.selectors.grouping import batch_means, fewest_batches, groups_of, spread_batches
from lipt_cords.selectors.memory import by_sample, byte_limit


@register_selector("grand", spelling="GraNd")
def grand(problem: SelectionProblem, *, scores: Tensor | None = None) -> Choice:
    """The samples with the largest last-layer gradient norm (Paul et al., NeurIPS 2021).

    Args:
        problem: the pool's gradients; ``linear_layer`` says which norm is meant.
        scores: (N,) norms to use instead, for instance averaged over workers or held out
            (`lipt_cords.selectors.difficulty`).

    Returns:
        Samples in descending order of score within each group, with weight 1.
    """
    if scores is None:
        scores = gradient_norms(problem, problem.linear_layer)
    return _largest(problem, scores)


@register_selector("el2n", spelling="EL2N")
def el2n(problem: SelectionProblem, *, scores: Tensor | None = None) -> Choice:
    """The samples with the largest error norm ``|softmax - onehot|`` (Paul et al., NeurIPS 2021).

    Args:
        problem: the pool's gradients, of cross-entropy; ``linear_layer`` is ignored.
        scores: (N,) scores to use instead, as for ``"grand"``.

    Returns:
        Samples in descending order of score within each group, with weight 1.
    """
    if scores is None:
        scores = gradient_norms(problem, linear_layer=False)
    return _largest(problem, scores)


def gradient_norms(problem: SelectionProblem, linear_layer: bool) -> Tensor:
    """Norm of every gradient of the pool, (N,)."""
    return by_sample(
        lambda some: some.norms(linear_layer=linear_layer), problem.gradients, byte_limit(problem)
    )


def _largest(problem: SelectionProblem, scores: Tensor) -> Choice:
    values = check_scores("scores", scores, len(problem))
    if problem.per == "batch":
        means = batch_means(values, problem.batch_size)
        ranked = _descending(means)
        order = fewest_batches(problem, lambda count: ranked[:count], lambda picks: picks)
        indices, _, spread, cut = spread_batches(
            problem, order, torch.ones(len(order)), means[order]
        )
        return Choice(indices, scores=spread, info={"samples_cut": cut})
    parts = [
        group.members[_descending(values[group.members])[: group.budget]]
        for group in groups_of(problem)
    ]
    indices = torch.cat(parts)
    return Choice(indices, scores=values[indices])


def _descending(values: Tensor) -> Tensor:
    """Stable, so that the lowest index comes first among equals."""
    return torch.sort(values, descending=True, stable=True).indices
