"""Columns of a table that give the label away, such as one that is filled in when it is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lipt_cords.base.randomness import generator
from lipt_cords.data.tables.rows import TableRows

SHARE = 0.99
"""A column gives the label away if it tells so many rows of every class."""
TOGETHER = 10
"""Rows of one class, with one value or with values that follow each other, that tell it; classes
of fewer rows are not looked at."""
MOST_ROWS = 20_000
"""Of more rows some are drawn."""
_BLOCK = 4_000_000
"""Values that are sorted at once."""

Integers = npt.NDArray[np.int64]


def leaks(rows: TableRows) -> list[str]:
    """Names of columns each of which alone tells the class of nearly every row.

    A category tells the class that most of its rows have; so does a number, and numbers that follow
    each other tell it together. Missing values are a value of their own.

    Args:
        rows: of training.
    """
    drawn = torch.randperm(len(rows), generator=generator(0, "leaks"))[:MOST_ROWS]
    drawn = drawn[torch.argsort(rows.labels[drawn], stable=True)]
    labels = rows.labels[drawn].numpy()
    counts = np.bincount(labels)
    judged = np.flatnonzero(counts >= TOGETHER)
    if len(judged) < 2:
        return []
    rare = int(judged[counts[judged].argmin()])
    found = []
    numbers = rows.numbers.shape[1]
    width = max(1, _BLOCK // len(labels))
    for start in range(0, numbers, width):
        block = rows.numbers[drawn, start : start + width].numpy()
        for place in _beside_each_other(block, labels == rare):
            different, groups = np.unique(block[:, place], return_inverse=True)
            ends = np.isnan(different)  # missing values follow no number
            if _tells(groups, labels, counts, ends):
                found.append(rows.names[start + place])
    for place in range(rows.codes.shape[1]):
        groups = rows.codes[drawn, place].numpy().astype(np.int64) + 1
        if _tells(groups, labels, counts, None):
            found.append(rows.names[numbers + place])
    return found


def _beside_each_other(block: npt.NDArray[np.float32], rare: npt.NDArray[np.bool_]) -> list[int]:
    """Columns in whose order nearly every row of the smallest class is beside another of it.

    Others tell nothing, and are found so all at once.
    """
    there = np.zeros((len(block) + 2, block.shape[1]), dtype=bool)
    there[1:-1] = rare[np.argsort(block, axis=0, kind="stable")]
    beside = there[1:-1] & (there[:-2] | there[2:])
    return list(map(int, np.flatnonzero(beside.sum(axis=0) >= SHARE * rare.sum())))


def _tells(
    groups: Integers, labels: Integers, counts: Integers, ends: npt.NDArray[np.bool_] | None
) -> bool:
    """Whether rows of one value, or of values that follow each other, are of one class.

    Args:
        groups: the place of each row's value among the different ones, (N,).
        labels: (N,), from 0 on.
        counts: rows of each class.
        ends: of numbers, which values follow no other; None: none does.
    """
    pairs, sizes = np.unique(groups * len(counts) + labels, return_counts=True)
    group, label = np.divmod(pairs, len(counts))
    order = np.lexsort((sizes, group))
    largest = order[np.append(np.diff(group[order]) != 0, True)]
    named, right = label[largest], sizes[largest]
    starts = np.ones(len(named), dtype=bool)
    if ends is not None:
        starts[1:] = (np.diff(named) != 0) | ends[1:]
    run = np.cumsum(starts) - 1
    told = right * (np.bincount(run, weights=right)[run] >= TOGETHER)
    share = np.bincount(named, weights=told, minlength=len(counts)) / np.maximum(counts, 1)
    return bool((share[counts >= TOGETHER] >= SHARE).all())
