"""How hard a sample is for a model, and for models that have never seen it.

A score from a model that was trained on the sample measures memory as much as difficulty. The
workers of a warm start train on disjoint shards, so all but one have never seen a given sample:
the mean of their scores is a difficulty out of sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lipt_cords.base.arrays import as_tensor
from lipt_cords.base.randomness import generator
from lipt_cords.base.registry import Registry
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.checks import (
    check_classes,
    check_gradients,
    check_positive,
    check_scores,
)
from lipt_cords.selectors.memory import by_sample

ScoreFunction = Callable[[LastLayerGradients], Tensor]
SCORES: Registry[ScoreFunction] = Registry(
    "difficulty score", takes=("gradients",), by_sample=False
)
"""All difficulty scores: functions of the gradients of N samples, larger for harder ones.

``by_sample``: a sample's score depends on no other sample, so that chunks can be scored in turn.
"""


def register_score(
    name: str, *, by_sample: bool = False
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Make a function known as a difficulty score, wherever ``score`` is an option.

    The function takes `LastLayerGradients` of N samples and returns one number a sample, larger
    for harder ones.

    Args:
        name: must be free; upper and lower case are the same.
        by_sample: a sample's score depends on no other sample. The function then sees the pool in
            chunks where ``memory_limit`` asks for that.

    Raises:
        ValueError: the name is taken, or the function cannot be called with gradients alone.

    >>> @register_score("entropy")
    ... def entropy(gradients):
    ...     "Entropy of the predicted probabilities."
    ...     return torch.special.entr(gradients.logits.softmax(dim=1)).sum(dim=1)
    >>> SCORES.names()
    ('loss', 'margin', 'el2n', 'grand', 'entropy')
    >>> SCORES.unregister("entropy")
    """
    return SCORES.register(name, by_sample=by_sample)


def difficulty(
    gradients: LastLayerGradients, score: str = "loss", *, memory_limit: int | None = None
) -> Tensor:
    """One score a sample, larger for harder ones.

    Args:
        gradients: of N samples, under cross-entropy for ``"loss"`` and ``"el2n"``.
        score: ``"loss"``, ``"margin"``, ``"el2n"``, ``"grand"`` (Paul et al., NeurIPS 2021), or
            another registered one.
        memory_limit: bytes that scoring may take; scores that are not registered as ``by_sample``
            take what they take. None for a few hundred megabytes.

    Returns:
        (N,) float64 on the CPU.

    Raises:
        ValueError: unknown score, or one that does not return a finite number a sample;
            gradients that `select` would refuse.

    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    >>> grads = logits.softmax(1) - torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> labels = torch.tensor([0, 0])
    >>> easy, hard = difficulty(LastLayerGradients(grads, torch.ones(2, 3), labels, logits))
    >>> bool(easy < hard)
    True
    """
    SCORES.entry(score)
    return scored(check_gradients(gradients, "gradients"), score, memory_limit)


def scored(gradients: LastLayerGradients, score: str, memory_limit: int | None) -> Tensor:
    """`difficulty` of gradients that are checked already."""
    entry = SCORES.entry(score)
    check_classes(gradients, "gradients")
    if entry.facts["by_sample"]:
        found = by_sample(entry.make, gradients, memory_limit)
    else:
        found = entry.make(gradients)
    values = as_tensor(f"difficulty score {score!r}", found).to("cpu", torch.float64)
    if values.shape != gradients.labels.shape:
        raise ValueError(
            f"difficulty score {score!r} returned shape {tuple(values.shape)}, expected one number "
            f"a sample, {tuple(gradients.labels.shape)}"
        )
    return check_scores(f"difficulties {score!r}", values, len(values))


@register_score("loss", by_sample=True)
def loss(gradients: LastLayerGradients) -> Tensor:
    """The cross-entropy."""
    return torch.nn.functional.cross_entropy(
        gradients.logits.double(), gradients.labels, reduction="none"
    )


@register_score("margin", by_sample=True)
def margin(gradients: LastLayerGradients) -> Tensor:
    """The largest probability of a wrong class minus that of the right one."""
    probabilities = gradients.logits.double().softmax(dim=1)
    right = probabilities.gather(1, gradients.labels[:, None])
    wrong = probabilities.scatter(1, gradients.labels[:, None], -1.0).amax(dim=1)
    return wrong.clamp(min=0.0) - right[:, 0]


@register_score("el2n", by_sample=True)
def el2n(gradients: LastLayerGradients) -> Tensor:
    """The norm of the logit gradient."""
    return gradients.norms(linear_layer=False).double()


@register_score("grand", by_sample=True)
def grand(gradients: LastLayerGradients) -> Tensor:
    """The norm of the gradient of the whole last layer."""
    return gradients.norms(linear_layer=True).double()


def held_out_plan(
    shards: Sequence[Tensor], samples: int, *, scorers: int = 3, seed: int = 0
) -> Tensor:
    """Which worker scores which sample: a few that have not trained on it, spread evenly.

    Args:
        shards: one tensor of sample indices a worker.
        samples: N, the size of the pool.
        scorers: workers a sample, at most; all that are held out when there are fewer.
        seed: of the draw.

    Returns:
        (K, N) bool; its sum is the number of forward passes that the scores cost.

    Raises:
        ValueError: a sample that every worker has trained on; an index outside the pool.
    """
    check_positive("scorers", scorers)
    seen = torch.zeros(len(shards), samples, dtype=torch.bool)
    for worker, shard in enumerate(shards):
        if len(shard) and (int(shard.min()) < 0 or int(shard.max()) >= samples):
            raise ValueError(
                f"expected indices in [0, {samples}) in every shard, worker {worker} has "
                f"{int(shard.min())} to {int(shard.max())}"
            )
        seen[worker, shard.cpu()] = True
    _check_held_out(seen.all(dim=0))
    # Random order among the held-out workers; those that have seen the sample come last.
    draws = torch.rand(seen.shape, generator=generator(seed, "held-out")) + 2.0 * seen
    rank = draws.argsort(dim=0).argsort(dim=0)
    return (rank < scorers) & ~seen


def held_out(scores_KN: Tensor, allowed_KN: Tensor) -> Tensor:
    """Mean score over the workers that were held out.

    Args:
        scores_KN: one row of scores a worker; entries that are not allowed are not read and
            may be NaN.
        allowed_KN: (K, N) bool, as from `held_out_plan`, or the complement of shard membership.

    Returns:
        (N,) float64.

    Raises:
        ValueError: shapes differ, a sample without any held-out worker, or an allowed score that
            is not finite.

    >>> scores = torch.tensor([[1.0, 9.0], [5.0, 3.0]])
    >>> held_out(scores, torch.tensor([[True, False], [True, True]]))
    tensor([3., 3.], dtype=torch.float64)
    """
    if scores_KN.shape != allowed_KN.shape or scores_KN.ndim != 2:
        raise ValueError(
            "expected scores and a mask of one shape (workers, samples), received "
            f"{tuple(scores_KN.shape)} and {tuple(allowed_KN.shape)}"
        )
    allowed_KN = allowed_KN.bool()
    _check_held_out(~allowed_KN.any(dim=0))
    used = torch.where(allowed_KN, scores_KN.double(), 0.0)
    if not bool(torch.isfinite(used).all()):
        workers = torch.nonzero(~torch.isfinite(used).all(dim=1)).flatten().tolist()
        raise ValueError(f"expected finite scores, workers {workers} gave NaN or infinity")
    return used.sum(dim=0) / allowed_KN.sum(dim=0)


def _check_held_out(missing_N: Tensor) -> None:
    rows = torch.nonzero(missing_N).flatten()[:5].tolist()
    if rows:
        raise ValueError(
            f"expected at least one worker that has not trained on each sample; samples {rows} "
            "have none: use at least two workers with disjoint shards"
        )
