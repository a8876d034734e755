"""Disjoint, class-balanced shards: each worker's samples, fixed before any training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator as named_generator
from lipt_cords.data.batches import item_indices
from lipt_cords.data.splits import balanced_order


def missing_classes(labels: Tensor, shards: Sequence[Tensor]) -> list[list[int]]:
    """For every shard, the classes of the data of which it has no sample."""
    present = torch.unique(labels)
    return [present[~torch.isin(present, labels[shard])].tolist() for shard in shards]


def make_shards(
    labels: Tensor, num_workers: int, shard_fraction: float = 1.0, seed: int = 0
) -> list[Tensor]:
    """Split the training set into one disjoint, stratified shard for each worker.

    The samples of each class are shuffled and dealt in turn, every class beginning where the
    one before it stopped. So the sizes of two shards differ by at most one, and so do their
    counts of any class; a class with fewer samples than workers is missing from some shards.

    Args:
        labels: integer class of every sample, shape (N,).
        num_workers: how many shards to make.
        shard_fraction: share of the N samples that the shards hold together, in (0, 1]; at 1
            every sample is in exactly one shard.
        seed: root of the draws; the same seed gives the same shards everywhere.

    Returns:
        ``num_workers`` ascending index tensors, int64.

    Raises:
        ValueError: fewer samples than workers, or a wrong option.

    >>> shards = make_shards(torch.arange(10) % 2, num_workers=3)
    >>> [len(shard) for shard in shards]
    [4, 3, 3]
    """
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, received {num_workers}")
    if not 0 < shard_fraction <= 1:
        raise ValueError(f"shard_fraction must lie in (0, 1], received {shard_fraction}")
    dealt = round(shard_fraction * len(labels))
    if dealt < num_workers:
        raise ValueError(
            f"{num_workers} workers need at least one sample each, but shard_fraction="
            f"{shard_fraction:g} of {len(labels)} samples leaves {dealt}: "
            "lower num_workers or raise shard_fraction"
        )
    chosen = balanced_order(labels, named_generator(seed, "shards"))[:dealt]
    by_class = chosen[torch.argsort(labels.cpu()[chosen], stable=True)]
    return [by_class[worker::num_workers].sort().values for worker in range(num_workers)]


def check_shards(shards: Sequence[Tensor], num_workers: int, samples: int) -> list[Tensor]:
    """Check given shards; they are returned as ascending int64 indices.

    Args:
        shards: indices of every worker's samples.
        num_workers: the expected number of shards.
        samples: size of the training set.

    Raises:
        ValueError: another number of shards, an empty one, indices outside of the data, or a sample
            that is in two shards, or twice in one.

    >>> check_shards([[2, 0], [1]], num_workers=2, samples=3)
    [tensor([0, 2]), tensor([1])]
    """
    if len(shards) != num_workers:
        raise ValueError(
            f"expected one shard for each of {num_workers} workers, received {len(shards)}: set "
            "num_workers to their number"
        )
    dealt = [item_indices(shard, samples).sort().values for shard in shards]
    if empty := [worker for worker, shard in enumerate(dealt) if len(shard) == 0]:
        raise ValueError(f"the shard of worker {empty[0]} is empty: every worker needs a sample")
    counts = torch.bincount(torch.cat(dealt), minlength=samples)
    if int(counts.max()) > 1:
        raise ValueError(
            f"sample {int(counts.argmax())} is in the shards {int(counts.max())} times: shards "
            "must be disjoint"
        )
    return dealt
