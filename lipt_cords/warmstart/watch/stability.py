"""When the gradients are good enough: signals from workers and merges on held-out samples.

Workers are replicas, so their spread is the noise of the gradients. But replicas share their bias,
and once the learning rate falls they agree, whatever they have learned: their agreement shows how
noisy a round is, not how good the model is. The merged model's held-out loss follows the quality of
the gradients, and how fast it still falls shows whether more rounds help
(``benchmarks/stability.py`` measures both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipt_cords.base.randomness import generator
from lipt_cords.warmstart.watch.probe import Reading

SPLITS = 16
"""Random divisions of the workers over which the split-half correlation is averaged."""


@dataclass(frozen=True)
class Stability:
    """Signals from the workers of a round on held-out samples.

    Attributes:
        workers: the number of workers that were compared.
        critical_path_passes: samples on the critical path up to here.
        class_cosine: mean cosine between two workers' class-mean last-layer gradients, over pairs
            and classes, in [-1, 1]; None for one worker.
        rank_correlation: Spearman correlation between the mean losses of two random halves of the
            workers, averaged over divisions, in [-1, 1]; None for one worker.
        worker_loss: mean cross-entropy of the workers.
        merged_loss: cross-entropy of the merged model; None with one round.
        round_correlation: Spearman correlation of the merged model's losses with those of the
            merge before; None in the first round.
        benefit: predicted benefit of more rounds: the share by which the merged model's held-out
            loss fell over the last quarter of the critical path, in (-inf, 1). At this rate a
            critical path longer by a third would bring about as much again. None if there is no
            merge that early.
    """

    workers: int
    critical_path_passes: int
    class_cosine: float | None
    rank_correlation: float | None
    worker_loss: float
    merged_loss: float | None
    round_correlation: float | None
    benefit: float | None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Stability:
        """Rebuild it from ``dataclasses.asdict``."""
        return cls(**values)


def measure_stability(
    readings: Sequence[Reading],
    merged: Reading | None,
    before: Reading | None,
    earlier: Sequence[Stability],
    critical_path_passes: int,
    seed: int,
) -> Stability:
    """Compare the workers of a round, and the merge with the merge before.

    Args:
        readings: of the merged workers.
        merged: of the merged model.
        before: of the merged model a round earlier.
        earlier: the measurements of earlier rounds.
        critical_path_passes: samples on the critical path up to here.
        seed: of the divisions into halves.
    """
    losses_KN = torch.stack([one.losses for one in readings]).double()
    correlated = None
    if merged is not None and before is not None:
        correlated = spearman(merged.losses, before.losses)
    return Stability(
        workers=len(readings),
        critical_path_passes=critical_path_passes,
        class_cosine=pairwise_class_cosine([one.class_gradients for one in readings]),
        rank_correlation=split_half_correlation(losses_KN, seed),
        worker_loss=float(losses_KN.mean()),
        merged_loss=None if merged is None else merged.loss,
        round_correlation=correlated,
        benefit=None
        if merged is None
        else recent_fall(
            [(o.critical_path_passes, o.merged_loss) for o in earlier if o.merged_loss is not None],
            (critical_path_passes, merged.loss),
        ),
    )


def recent_fall(earlier: Sequence[tuple[int, float]], now: tuple[int, float]) -> float | None:
    """The share by which a loss fell over the last quarter of the passes.

    Args:
        earlier: (passes, loss) in the order of their passes.
        now: the newest.

    Returns:
        None if no point is that early; between two points the loss is interpolated.

    >>> recent_fall([(50, 1.0), (75, 0.5)], (100, 0.375))
    0.25
    """
    passes = 0.75 * now[0]
    if not earlier or earlier[0][0] > passes:
        return None
    points = [*earlier, now]
    then = float(np.interp(passes, [p for p, _ in points], [loss for _, loss in points]))
    return 1 - now[1] / then if then > 0 else 0.0


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two vectors; ties share their mean rank; 0 if one is constant.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    0.5
    """
    from scipy.stats import rankdata  # here: its import takes longer than this whole package's

    ranks = np.stack([rankdata(one.numpy()), rankdata(other.numpy())])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = float(np.sqrt(np.square(ranks).sum(axis=1).prod()))
    return float((ranks[0] * ranks[1]).sum()) / norm if norm > 0 else 0.0


def split_half_correlation(losses_KN: Tensor, seed: int, splits: int = SPLITS) -> float | None:
    """Spearman correlation between the mean losses of two halves of the replicas.

    Args:
        losses_KN: losses of K replicas on N samples.
        seed: of the divisions; with an odd K each leaves out one replica.
        splits: divisions to average over.

    Returns:
        None for fewer than two replicas.
    """
    replicas = len(losses_KN)
    if replicas < 2:
        return None
    draws, half, total = generator(seed, "split halves"), replicas // 2, 0.0
    for _ in range(splits):
        order = torch.randperm(replicas, generator=draws)
        first, second = losses_KN[order[:half]], losses_KN[order[half : 2 * half]]
        total += spearman(first.mean(dim=0), second.mean(dim=0))
    return total / splits


def pairwise_class_cosine(gradients: Sequence[Tensor]) -> float | None:
    """Mean cosine over all pairs of replicas and over classes.

    Args:
        gradients: one (classes, D) tensor per replica.

    Returns:
        None for fewer than two replicas.
    """
    if len(gradients) < 2:
        return None
    unit_KCD = torch.nn.functional.normalize(torch.stack(list(gradients)).double(), dim=2)
    count = len(gradients)
    # The squared norm of a sum of unit vectors holds every pair twice, and each vector once.
    pairs_C = unit_KCD.sum(dim=0).square().sum(dim=1) - unit_KCD.square().sum(dim=2).sum(dim=0)
    return float(pairs_C.mean() / (count * (count - 1)))
