"""The labels of any data set: what its items say.

``targets`` and ``labels`` of a data set spare reading all items, but they only stand for the items
if nothing changes labels on the way: a ``__getitem__`` that groups classes, a wrapper, a subset
that was relabelled. So some items are read, and where one differs the items decide.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lipt_cords.base.randomness import preserved_rng
from lipt_cords.data.batches import dataset_length, describe, flat_labels, subset_indices
from lipt_cords.data.collated import CollateFunction, apart
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.open_files import nothing_left_open
from lipt_cords.data.reads import NotedItems, note_read
from lipt_cords.data.steadiness import spread
from lipt_cords.data.tables.rows import TableRows

logger = logging.getLogger(__name__)

COMPARED_ITEMS = 16
"""Items that are compared with ``targets``, spread over a data set, the first and the last too."""
COMPARED_KINDS = 48
"""Classes, in each part of data sets put together, of which the first item is compared too; of more
of them these are spread."""
COMPARED_OF_PARTS = 480
"""Such items of all parts together; each of up to so many parts has one."""


def labels_of(dataset: Dataset[Any], notes: list[str] | None = None) -> Tensor:
    """Class labels of a map-style data set as its items give them, shape (N,), int64, on the CPU.

    Read from ``targets`` or ``labels`` where some items agree with them (up to 16 spread over the
    data set, and the first of up to 48 classes of each part of it), and from a TensorDataset's
    second tensor. Otherwise every item is read. The global random state is preserved.

    Args:
        dataset: with items ``(x, y, ...)`` or dicts with labels; of one with a ``collate_fn``
            (:class:`~lipt_cords.data.collated.Collated`) each item's own batch has its label.
        notes: gets a sentence if items differ from ``targets`` or ``labels``, and one if some that
            are compared cannot be read; both are logged too.

    Raises:
        ValueError: labels that are not one integer a sample.

    >>> data = TensorDataset(torch.ones(3, 1), torch.tensor([2, 0, 1]))
    >>> labels_of(Subset(data, [2, 0])).tolist()
    [1, 2]
    """
    dataset, collate_fn = apart(dataset)
    known = _known_labels(dataset)
    if known is not None and collate_fn is None and _held_in_memory(dataset):
        return known
    with preserved_rng(), nothing_left_open(dataset):
        if known is not None:
            found, unread = _compare(dataset, known, collate_fn)
            if unread is not None:
                note = f"labels are the listed ones where items cannot be read: {unread}"
                logger.warning("%s (%s)", note, type(dataset).__name__)
                if notes is not None:
                    notes.append(note)
            if found is None:
                return known
            sample, label = found
            note = (
                f"labels are those of the items: sample {sample} has {label}, where the data set's "
                f"targets or labels have {int(known[sample])}"
            )
            logger.warning("%s (%s)", note, type(dataset).__name__)
            if notes is not None:
                notes.append(note)
        items = NotedItems(dataset)
        values = [_item_label(items[i], collate_fn) for i in range(dataset_length(dataset))]
    return _as_labels(values)


def _known_labels(dataset: Dataset[Any]) -> Tensor | None:
    """Labels that a data set lists, or None."""
    if type(dataset) is Subset:
        below = _known_labels(dataset.dataset)
        return None if below is None else below[subset_indices(dataset)]
    if type(dataset) is ConcatDataset:
        parts = [_known_labels(part) for part in dataset.datasets]
        return None if any(p is None for p in parts) else torch.cat(parts)  # type: ignore[arg-type]
    if type(dataset) is TensorDataset and len(dataset.tensors) >= 2:
        return flat_labels(dataset.tensors[1]).cpu()
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if (
            values is not None
            and hasattr(values, "__len__")
            and len(values) == dataset_length(dataset)
        ):
            try:
                return _as_labels(values)
            except ValueError:
                continue  # names of classes, boxes: the labels are read from the items
    return None


def _held_in_memory(dataset: Dataset[Any]) -> bool:
    """Whether items give the listed labels by their construction."""
    if type(dataset) is Subset:
        return _held_in_memory(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(_held_in_memory, dataset.datasets))
    return type(dataset) in (TensorDataset, ImageTensors, FolderImages, TableRows)


def _compare(
    dataset: Dataset[Any], known: Tensor, collate_fn: CollateFunction | None
) -> tuple[tuple[int, int] | None, str | None]:
    """A compared item whose label is not the listed one, and its label; None if all agree.

    Second, the first item that cannot be read, and why; None if all can.
    """
    unread = None
    for sample in _compared(dataset, known):
        try:
            label = _item_label(dataset[sample], collate_fn)
            note_read()
        except Exception as error:  # of a user's code: it is said, and whoever needs the item fails
            reason = str(error).partition("\n")[0]
            unread = unread or f"sample {sample} ({type(error).__name__}: {reason})"
            continue
        if label != int(known[sample]):
            return (sample, label), unread
    return None, unread


def _compared(dataset: Dataset[Any], known: Tensor) -> list[int]:
    """Positions of the items that are compared, ascending."""
    kinds = torch.stack([_parts_of(dataset, len(known)), known])
    kinds, kind_of = torch.unique(kinds, dim=1, return_inverse=True)
    count = kinds.shape[1]
    first = torch.full((count,), len(known)).scatter_reduce(
        0, kind_of, torch.arange(len(known)), "amin"
    )
    parts = torch.unique_consecutive(kinds[0], return_counts=True)[1]
    each = max(1, min(COMPARED_KINDS, COMPARED_OF_PARTS // len(parts)))
    begins = (parts.cumsum(0) - parts).tolist()
    chosen = torch.cat([at + spread(n, each) for at, n in zip(begins, parts.tolist(), strict=True)])
    some = first[chosen[spread(len(chosen), COMPARED_OF_PARTS)]]
    return sorted({*spread(len(known), COMPARED_ITEMS).tolist(), *some.tolist()})


def _parts_of(dataset: Dataset[Any], count: int) -> Tensor:
    """Which of the data sets that were put together every item is of, shape (N,)."""
    if type(dataset) is Subset:
        return _parts_of(dataset.dataset, dataset_length(dataset.dataset))[subset_indices(dataset)]
    if type(dataset) is not ConcatDataset:
        return torch.zeros(count, dtype=torch.int64)
    parts, number = [], 0
    for one in dataset.datasets:
        inside = _parts_of(one, dataset_length(one))
        parts.append(inside + number)
        number += 1 + (int(inside.max()) if len(inside) else 0)
    return torch.cat(parts)


def _item_label(item: Any, collate_fn: CollateFunction | None) -> int:
    if collate_fn is not None:
        item = collate_fn([item])
    if isinstance(item, Mapping):
        item = (None, item.get("labels", item.get("label")))
    if not isinstance(item, tuple | list) or len(item) < 2 or item[1] is None:
        raise ValueError(
            f"expected items (x, y) or dicts with 'labels', received {describe(item)}: "
            "let the data set return a pair or a dict"
        )
    try:
        return operator.index(item[1])
    except TypeError:
        label = item[1]
        found = _as_labels(label.reshape(1, -1) if hasattr(label, "reshape") else [label])
        return int(found)


def _as_labels(values: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"labels must be one integer a sample: {error}") from error
    return flat_labels(tensor).cpu()
