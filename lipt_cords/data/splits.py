"""Seeded, class-balanced divisions of a data set: the same seed gives the same items anywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle all samples so that every prefix has nearly the class shares of the whole.

    Args:
        labels: integer class of every sample, shape (N,).
        generator: source of the draws, on the CPU.

    Returns:
        A permutation of 0..N-1. In a prefix of t N samples, every class of n samples occurs
        t n times, give or take 1 + n C / N; give or take one if the C classes are of one size.

    >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> labels[balanced_order(labels, torch.Generator().manual_seed(0))][:2].sort().values
    tensor([0, 1])
    """
    labels = labels.cpu()
    classes, class_of, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(class_of[shuffled], stable=True)]
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.arange(len(labels)) - first
    start = torch.rand(len(classes), generator=generator, dtype=torch.float64)
    position = (rank + start.repeat_interleave(counts)) / counts.repeat_interleave(counts)
    return by_class[torch.argsort(position, stable=True)]


def stratified_split(
    labels: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw ``count`` items with every class in proportion.

    Args:
        labels: classes, shape (N,).
        count: items to draw, 0 to N.
        generator: a CPU generator.

    Returns:
        Indices of the rest (N - count,) and of the drawn items (count,), both ascending.

    >>> rest, drawn = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), 3, torch.Generator())
    >>> torch.bincount(torch.tensor([0, 0, 0, 0, 1, 1])[drawn]).tolist()
    [2, 1]
    """
    ranks, sizes = _ranks(labels, generator)
    # The item in the middle of its class stands at 1/2, whatever the class's size.
    order = torch.argsort((ranks.double() + 0.5) / sizes[labels], stable=True)
    return order[count:].sort().values, order[:count].sort().values


def balanced_sample(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw up to ``count`` items with classes as equal in number as they can be.

    Returns:
        Indices, shape (min(count, N),), ascending.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> torch.bincount(labels[balanced_sample(labels, 4, torch.Generator())]).tolist()
    [2, 2]
    """
    ranks, _ = _ranks(labels, generator)
    return torch.argsort(ranks, stable=True)[:count].sort().values


def _ranks(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random rank of every item within its class, from 0, and the sizes of the classes."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return ranks, sizes
