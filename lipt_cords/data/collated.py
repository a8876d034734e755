"""A data set together with the function that makes batches of its items, such as one that pads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset, Subset

from lipt_cords.data.batches import dataset_length, subset_indices

CollateFunction = Callable[[list[Any]], Any]
"""Makes a batch of a list of items, of one item too, as DataLoader's ``collate_fn``."""


class Collated(Dataset[Any]):
    """A data set whose batches are made by a function of the user's; its items stay as they are.

    Args:
        dataset: a map-style data set of any items.
        collate_fn: makes ``(x, y)`` or a dict with labels of a list of items, all in their order.

    >>> from torch.utils.data import default_collate
    >>> Collated([1, 2], default_collate).collate_fn([1, 2])
    tensor([1, 2])
    """

    def __init__(self, dataset: Dataset[Any], collate_fn: CollateFunction) -> None:
        self.dataset, self.collate_fn = dataset, collate_fn

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def collated(dataset: Dataset[Any], collate_fn: CollateFunction | None) -> Dataset[Any]:
    """A data set with its function for batches; without one, the data set itself.

    Raises:
        ValueError: no function, or a data set without a length.
    """
    if collate_fn is None:
        return dataset
    if not callable(collate_fn):
        raise ValueError(
            "collate_fn must be a function that makes a batch of a list of items, as DataLoader "
            f"takes it, received {type(collate_fn).__name__}"
        )
    dataset_length(dataset)
    return Collated(dataset, collate_fn)


def apart(dataset: Dataset[Any]) -> tuple[Dataset[Any], CollateFunction | None]:
    """What :func:`collated` put together, through plain Subsets.

    >>> both = Subset(Collated([5, 6, 7], list), [2, 0])
    >>> plain, collate_fn = apart(both)
    >>> list(plain), collate_fn is list
    ([7, 5], True)
    """
    if type(dataset) is Collated:
        return dataset.dataset, dataset.collate_fn
    if type(dataset) is Subset:
        below, collate_fn = apart(dataset.dataset)
        if collate_fn is not None:
            return Subset(below, subset_indices(dataset).tolist()), collate_fn
    return dataset, None
