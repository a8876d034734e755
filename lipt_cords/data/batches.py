"""The two forms a batch may have, and indices of items.

Pairs ``(x, y)`` and dicts with labels are read here alone; the rest of the package sees inputs
and labels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    default_collate,
)

logger = logging.getLogger(__name__)

Inputs = Tensor | dict[str, Tensor]
LABEL_KEYS = ("labels", "label")


def split_batch(batch: Any) -> tuple[Inputs, Tensor]:
    """Split a batch into what the network reads and the labels.

    Args:
        batch: ``(x, y)`` or ``(x, y, ...)``, of which the rest is dropped; or a dict with
            ``labels`` (or ``label``), whose other tensors are the network's keyword arguments, as
            those of a dict ``x`` are. Texts in a dict are left out.

    Raises:
        ValueError: anything else.

    >>> inputs, labels = split_batch({"tokens": torch.ones(2, 5), "labels": torch.tensor([0, 1])})
    >>> list(inputs), labels.tolist()
    (['tokens'], [0, 1])
    """
    if isinstance(batch, Mapping):
        key = next((key for key in LABEL_KEYS if key in batch), None)
        if key is None:
            raise ValueError(
                f"a dict batch needs a 'labels' key, received {sorted(map(str, batch))}: "
                "rename the column that holds the classes to 'labels'"
            )
        named = {name: value for name, value in batch.items() if name != key}
        inputs, labels = _without_texts(named), batch[key]
        tensors = {f"key {name!r}": value for name, value in {**inputs, key: labels}.items()}
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        inputs, labels = batch[0], batch[1]
        tensors = {"the inputs": inputs, "the labels": labels}
        if isinstance(inputs, Mapping):
            inputs = _without_texts(inputs)
            tensors = {f"key {name!r}": value for name, value in inputs.items()}
            tensors["the labels"] = labels
    else:
        raise ValueError(
            "expected batches (x, y) or dicts with 'labels', received "
            f"{describe(batch)}: let the data set return a pair or a dict"
        )
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"expected tensors in a batch, but {name} is {type(value).__name__}: "
                "convert it in the data set's transform, or give a collate_fn that does"
            )
    return inputs, labels


def _without_texts(named: Mapping[str, Any]) -> dict[str, Any]:
    """What a network may read: all but lists of strings, if anything else is there."""
    texts = [
        name
        for name, value in named.items()
        if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value)
    ]
    if not texts or len(texts) == len(named):
        return dict(named)
    _note_texts(tuple(texts))
    return {name: value for name, value in named.items() if name not in texts}


@functools.cache
def _note_texts(names: tuple[str, ...]) -> None:
    logger.warning("no network reads texts, so these keys are left out: %s", ", ".join(names))


def to_device(inputs: Inputs, device: torch.device | str) -> Inputs:
    """Move a tensor, or every tensor of a dict, to a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return {key: value.to(device, non_blocking=True) for key, value in inputs.items()}


def flat_labels(labels: Tensor) -> Tensor:
    """Labels as (B,) int64; (B, 1) is accepted, anything that is not a class index is not."""
    if labels.is_floating_point() or labels.is_complex() or labels.numel() != len(labels):
        remedy = "give class indices from 0"
        if labels.ndim > 1 and labels.numel() != len(labels):
            remedy += "; several labels a sample (multi-label) or one a token are not supported"
        raise ValueError(
            f"labels must be one integer a sample, received {labels.dtype} of shape "
            f"{tuple(labels.shape)}: {remedy}"
        )
    return labels.reshape(-1).to(torch.int64)


def collate(items: list[Any]) -> Any:
    """Put items into one batch.

    Raises:
        ValueError: items that are not tensors or numbers of one shape.
    """
    try:
        return default_collate(items)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"cannot put items into one batch, the first is {describe(items[0])}: let the data set "
            "give tensors of one shape (resize, pad, ToTensor in its transform), or give a "
            f"collate_fn that pads. {error}"
        ) from error


def dataset_length(dataset: Dataset[Any]) -> int:
    """Number of items.

    Raises:
        ValueError: a data set without a length, or something that only looks like a data set.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"expected a map-style data set with a length, received {type(dataset).__name__}, an "
            "IterableDataset: samples are chosen by index, so give it __len__ and __getitem__"
        )
    if isinstance(dataset, DataLoader | Tensor):
        remedy = "its .dataset" if isinstance(dataset, DataLoader) else "TensorDataset(x, y)"
        raise ValueError(
            "expected a map-style data set of pairs or dicts, received a "
            f"{type(dataset).__name__}: pass {remedy}"
        )
    try:
        return len(dataset)  # type: ignore[arg-type]
    except TypeError:
        parts = hasattr(dataset, "train") and hasattr(dataset, "test")
        raise ValueError(
            f"expected a map-style data set with a length, received {type(dataset).__name__}: "
            f"{'pass a part of it, such as .train' if parts else 'give it __len__ and __getitem__'}"
        ) from None


def item_indices(indices: Tensor | Sequence[int], length: int) -> Tensor:
    """Indices of items as (m,) int64 on the CPU; a mask of all items gives those that it marks.

    Raises:
        ValueError: no integers, integers outside of the items, or a mask of another length.

    >>> item_indices([2, 0], 3), item_indices([False, True, True], 3)
    (tensor([2, 0]), tensor([1, 2]))
    """
    chosen = torch.as_tensor(indices).reshape(-1).cpu()
    if chosen.dtype == torch.bool:
        if len(chosen) != length:
            raise ValueError(f"a mask needs {length} entries, one an item, received {len(chosen)}")
        return chosen.nonzero().flatten()
    if len(chosen) == 0:
        return chosen.to(torch.int64)
    if chosen.is_floating_point() or chosen.is_complex():
        raise ValueError(f"indices must be integers or a mask, received {chosen.dtype}")
    chosen = chosen.to(torch.int64)
    wrong = chosen[(chosen < 0) | (chosen >= length)]
    if len(wrong):
        raise ValueError(f"indices must lie in [0, {length}), received {int(wrong[0])}")
    return chosen


def different_indices(indices: Any, length: int) -> Tensor:
    """Indices of items as :func:`item_indices`, at least one and none twice.

    Raises:
        ValueError: others.
    """
    if isinstance(indices, set | frozenset):
        indices = sorted(indices)
    try:
        chosen = item_indices(indices, length)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"indices must be whole numbers, received {indices!r}") from error
    if len(chosen) == 0:
        raise ValueError("expected at least one sample, received none")
    counts = torch.bincount(chosen)
    if int(counts.max()) > 1:
        raise ValueError(f"sample {int(counts.argmax())} is named twice: name each sample once")
    return chosen


def forgettable(indices: Any, length: int, forgotten: Iterable[int]) -> list[int]:
    """Different items, ascending, that were not forgotten before.

    Raises:
        ValueError: others.
    """
    wanted: list[int] = sorted(different_indices(indices, length).tolist())
    if again := sorted(set(forgotten).intersection(wanted)):
        raise ValueError(f"sample {again[0]} was forgotten already: forget each sample once")
    return wanted


def remaining(length: int, forgotten: Iterable[int]) -> Tensor:
    """Ascending indices of the items that are not forgotten.

    >>> remaining(4, {1})
    tensor([0, 2, 3])
    """
    stays = torch.ones(length, dtype=torch.bool)
    stays[list(forgotten)] = False
    return stays.nonzero().flatten()


def subset_indices(subset: Subset[Any]) -> Tensor:
    """The indices of a Subset as int64; negative ones count from the end, as in a list.

    Raises:
        ValueError: indices outside of the data set below.
    """
    length = dataset_length(subset.dataset)
    indices = torch.as_tensor(subset.indices, dtype=torch.int64)
    return item_indices(torch.where(indices < 0, indices + length, indices), length)


def describe(value: Any) -> str:
    """A value's type for an error message, with the types inside."""
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {[type(part).__name__ for part in value]}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of { {k: type(v).__name__ for k, v in value.items()} }"
    return type(value).__name__
