"""Difficulty scores from the workers of a warm start, for selectors.

By default every sample is scored by a few workers that were not trained on it, so that no score
comes from memory. The process that selects holds the data and scores with the workers' weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.data.source import BatchSource
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.selectors.difficulty import difficulty, held_out, held_out_plan
from lipt_cords.warmstart.result import WarmStartResult


@dataclass(frozen=True)
class WorkerDifficulty:
    """Scores for ``select(..., scores=...)`` and what they cost.

    Attributes:
        scores: one per sample, larger for harder ones, shape (N,), float64.
        passes: forward passes of one sample that the scores took.
        accuracy: share of these passes in which the worker was right. With held-out workers it
            is an accuracy on samples that they have not seen.
    """

    scores: Tensor
    passes: int
    accuracy: float


def worker_difficulty(
    result: WarmStartResult,
    dataset: Dataset[Any] | BatchSource,
    score: str = "loss",
    *,
    scorers: int = 3,
    unseen: bool = True,
    seed: int = 0,
    **options: Any,
) -> WorkerDifficulty:
    """Score every sample by the workers of a warm start.

    Args:
        result: fitted with ``keep_workers=True``, in this process.
        dataset: the training set that it was fitted on, in the same order.
        score: ``"loss"``, ``"margin"``, ``"el2n"`` or ``"grand"``.
        scorers: workers per sample.
        unseen: only workers whose shard does not hold the sample; False averages over all workers,
            as GraNd and EL2N average over replicas, and ``scorers`` is ignored.
        seed: of the draw of workers.
        **options: of :func:`lipt_cords.models.gradients.last_layer_gradients`; ``collate_fn`` is
            that of the fit.

    Raises:
        ValueError: the workers were not kept, none has finite weights, the data set has another
            size, or a sample that every worker has trained on.

    >>> from lipt_cords.warmstart import LiPTWarmStart
    >>> data = torch.utils.data.TensorDataset(torch.randn(40, 8), torch.arange(40) % 4)
    >>> warm_start = LiPTWarmStart(num_workers=4, common_steps=2, keep_workers=True, epochs=1)
    >>> scored = worker_difficulty(warm_start.fit(torch.nn.Linear(8, 4), data), data, scorers=2)
    >>> scored.scores.shape, scored.passes
    (torch.Size([40]), 80)
    """
    count = _count(dataset)
    states = result.worker_states
    if states is None:
        raise ValueError(
            "the warm start did not keep its workers: fit it with keep_workers=True to score "
            "samples by them"
        )
    finite = {worker: state for worker, state in enumerate(states) if state is not None}
    if not finite:
        raise ValueError("no worker of the warm start has finite weights: lower its lr")
    if unseen:
        plan_KN = held_out_plan(
            [result.shards[k] for k in finite], count, scorers=scorers, seed=seed
        )
    else:
        plan_KN = torch.ones(len(finite), count, dtype=torch.bool)
    scores_KN = torch.full(plan_KN.shape, float("nan"), dtype=torch.float64)
    options.setdefault("head", result.config.head)
    if result.origins is not None and not isinstance(dataset, BatchSource):
        options.setdefault("collate_fn", result.origins.collate_fn)
    model, right = result.model(), 0
    for row, state in enumerate(finite.values()):
        mine = plan_KN[row].nonzero().flatten()
        if len(mine) == 0:
            continue
        model.load_state_dict(state)
        gradients = last_layer_gradients(model, dataset, indices=mine, **options)
        scores_KN[row, mine] = difficulty(gradients, score)
        right += int(gradients.correct().sum())
    passes = int(plan_KN.sum())
    return WorkerDifficulty(held_out(scores_KN, plan_KN), passes, right / passes)


def _count(dataset: Dataset[Any] | BatchSource) -> int:
    return len(dataset)  # type: ignore[arg-type]
