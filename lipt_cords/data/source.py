"""Batches by index from any data set, as fast as memory allows.

Selection and warm starts read the same few thousand samples again and again. A data set that is
small and always gives the same items is decoded once and kept on the device, where a batch is one
``index_select``; anything else goes through a DataLoader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lipt_cords.base.devices import pins_memory
from lipt_cords.base.randomness import preserved_rng
from lipt_cords.data.batches import (
    Inputs,
    collate,
    dataset_length,
    flat_labels,
    item_indices,
    split_batch,
    subset_indices,
    to_device,
)
from lipt_cords.data.collated import CollateFunction, apart
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.labels import labels_of
from lipt_cords.data.open_files import nothing_left_open, own_file_positions
from lipt_cords.data.reads import NotedItems, note_read
from lipt_cords.data.steadiness import ItemsBySeed, differs_between_reads, draws_at_random
from lipt_cords.data.tables.rows import TableRows

SCAN_BATCH = 1024
"""Samples that are scanned for NaN and infinity at once."""
DECODE_CHUNK = 1024
"""Items decoded between two copies to the device."""
FOREIGN_CHUNK = 64
"""The same where other processes read: only whole batches of theirs show that they go on."""
_ONLY = ""


def require_finite(inputs: Inputs, indices: Tensor, which: str = "training") -> None:
    """Check a batch of inputs.

    Raises:
        ValueError: NaN or infinity; the message names the first such sample.
    """
    for value in [inputs] if isinstance(inputs, Tensor) else inputs.values():
        # A sum is finite only if all terms are, and far cheaper than looking at each.
        if not value.is_floating_point() or bool(torch.isfinite(value.sum())):
            continue
        bad = ~torch.isfinite(value).reshape(len(value), -1).all(dim=1)
        if bool(bad.any()):
            sample = int(indices[int(bad.int().argmax())])
            raise ValueError(
                f"sample {sample} of the {which} data holds NaN or infinity: "
                "repair it or leave it out"
            )


class BatchSource:
    """Batches by index: decoded once and kept on the device when that is possible, else streamed.

    A data set is kept when its items are the same at every read (:meth:`changes`) and fit in
    ``cache_bytes``. Items that are taken to be the same are read under seeds of their own, so that
    randomness that was not noticed gives one item once and for all. What is streamed otherwise may
    draw from the global random state, as a DataLoader does: wrap it in ``isolated_rng`` to make it
    reproducible.

    Args:
        dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels.
        indices: the items of this source, in order, or a mask; None for all. No other item is
            read.
        device: where batches are given out.
        cache_bytes: most memory, in bytes, that the decoded items may take on the device.
        num_workers: processes that read a streamed data set.
        collate_fn: puts items into a batch, such as one that pads, and is always called, so nothing
            is kept; None takes that of the data set
            (:class:`~lipt_cords.data.collated.Collated`), or stacks tensors.
        changing: whether items differ between reads; None finds out when they could be kept.

    Raises:
        ValueError: an empty data set, indices outside of it, or items of another form.

    >>> data = TensorDataset(torch.arange(5.0), torch.tensor([0, 1, 0, 1, 0]))
    >>> source = BatchSource(data, [4, 3, 1])
    >>> [(x.tolist(), y.tolist()) for x, y in source.batches(batch_size=2)]
    [([4.0, 3.0], [0, 1]), ([1.0], [1])]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        indices: Tensor | Sequence[int] | None = None,
        *,
        device: torch.device | str = "cpu",
        cache_bytes: int = 2**30,
        num_workers: int = 0,
        collate_fn: CollateFunction | None = None,
        changing: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        self._num_workers = num_workers
        dataset, its_own = apart(dataset)
        collate_fn = collate_fn or its_own
        self._base, self._indices = _unwrapped(dataset, _checked_indices(dataset, indices))
        self._collate, self._collates = collate_fn or collate, collate_fn is not None
        self._gather = None if collate_fn is not None else _gather_of(self._base)
        if collate_fn is not None:
            cache_bytes = 0
        self.changing, self.cache_bytes, self.nbytes = changing, cache_bytes, 0
        self.normalisation: tuple[Tensor, Tensor] | None = None
        """Mean and standard deviation, (C,) each, that were subtracted from images; None if
        unknown."""
        if isinstance(self._base, ImageTensors):
            self.normalisation = (self._base.mean, self._base.std)
        self._kept = self._keep(cache_bytes)
        self.resident = self._kept is not None
        """Whether the items are kept on the device."""
        if cache_bytes > 0 and not self.resident and isinstance(self._base, ImageTensors):
            self._keep_bytes(self._base, cache_bytes)

    def __len__(self) -> int:
        return len(self._indices)

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the source's items, in its order: shape (n,), int64, on the CPU."""
        if self._kept is not None:
            return self._kept[1].cpu()
        if self._collates:  # what a batch holds is up to the function
            with preserved_rng():
                return torch.cat([y.cpu() for _, y in self.batches(batch_size=SCAN_BATCH)])
        return labels_of(Subset(self._base, self._indices.tolist()))

    def batches(
        self, order: Tensor | None = None, *, batch_size: int
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Give out batches on the device; the last one may be short.

        Args:
            order: positions in this source, shape (m,), each in [0, n); None for 0..n-1.
            batch_size: samples in a batch.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, received {batch_size}")
        if self._kept is not None:
            columns, labels = self._kept
            positions = torch.arange(len(self)) if order is None else order
            for part in torch.split(positions.to(self.device), batch_size):
                note_read()
                taken = {name: values.index_select(0, part) for name, values in columns.items()}
                yield taken.get(_ONLY, taken), labels.index_select(0, part)
            return
        chosen = self._indices if order is None else self._indices[order.cpu()]
        with self._reading():
            parts: Iterable[Any]
            if self._gather is not None:
                parts = map(self._gather, torch.split(chosen, batch_size))
            else:
                parts = self._loader(chosen, batch_size)
            asked = map(len, torch.split(chosen, batch_size))
            for count, batch in zip(asked, parts, strict=True):
                note_read()
                x, y = split_batch(batch)
                if self._collates:
                    _check_length(x, y, count)
                yield to_device(x, self.device), flat_labels(y).to(self.device)

    def _reading(self) -> AbstractContextManager[None]:
        """Around every read: the data set keeps no file open that it opens when it is read."""
        held = isinstance(self._base, ImageTensors | TableRows) or type(self._base) is TensorDataset
        return nullcontext() if held else nothing_left_open(self._base)

    def _loader(self, chosen: Tensor, batch_size: int) -> DataLoader[Any]:
        steady = self.changing is False
        items = ItemsBySeed(self._base) if steady else self._base
        if self._num_workers == 0 and not hasattr(items, "__getitems__"):
            items = NotedItems(items)
        return DataLoader(
            items,
            batch_size=batch_size,
            sampler=chosen.tolist(),
            num_workers=self._num_workers,
            pin_memory=pins_memory(self.device),
            collate_fn=self._collate,
            worker_init_fn=own_file_positions,
            # A loader draws a seed for its processes. Where items have seeds of their own it must
            # leave the global state alone, as reading from memory does.
            generator=torch.Generator() if steady else None,
        )

    def _keep(self, cache_bytes: int) -> tuple[dict[str, Tensor], Tensor] | None:
        """All items on the device, or None if they change between reads or are too large."""
        if cache_bytes <= 0 or self.changing:
            return None
        with preserved_rng(), self._reading():
            first = _columns(split_batch(self._read(self._indices[:1]))[0])
            size = sum(values.nbytes for values in first.values()) * len(self)
            if size > cache_bytes:
                return None
            if self.changing is None:
                self.changing = self.changes()
            if self.changing:
                return None
            self.nbytes = size
            return self._decoded(first)

    def _keep_bytes(self, images: ImageTensors, cache_bytes: int) -> None:
        """Keep images on a GPU as bytes where they do not fit as floats."""
        chosen = images.images[:1].nbytes * len(self)
        if self.device.type != "cpu" and chosen <= cache_bytes:
            self._base = images.select(self._indices).to(self.device)
            self._gather = self._base.gather
            self._indices = torch.arange(len(self))
            self.nbytes = chosen

    def _read(self, indices: Tensor) -> Any:
        if self._gather is not None:
            return self._gather(indices)
        items = NotedItems(self._base)
        return self._collate([items[i] for i in indices.tolist()])

    def changes(self) -> bool:
        """Whether items seem to differ between reads, by their transforms or by reading some twice.

        No other items than this source's are read.
        """
        if self._gather is not None:
            return False

        def columns(indices: Tensor) -> dict[str, Tensor]:
            x, y = split_batch(self._read(indices))
            return _columns(x) | {"labels": y}

        with self._reading():
            return draws_at_random(self._base) or differs_between_reads(columns, self._indices)

    def _decoded(self, first: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Every item, written chunk by chunk into its place on the device."""
        count = len(self)
        kept = {
            name: torch.empty((count, *values.shape[1:]), dtype=values.dtype, device=self.device)
            for name, values in first.items()
        }
        labels = torch.empty(count, dtype=torch.int64, device=self.device)
        chunks: Iterable[Any]
        if self._gather is not None:
            chunks = map(self._gather, torch.split(self._indices, DECODE_CHUNK))
        else:
            size = DECODE_CHUNK if self._num_workers == 0 else FOREIGN_CHUNK
            chunks = self._loader(self._indices, size)
        start = 0
        for chunk in chunks:
            note_read()
            x, y = split_batch(chunk)
            columns = _columns(x)
            _check_alike(kept, columns)
            place = slice(start, start + len(y))
            for name, values in columns.items():
                kept[name][place] = values
            labels[place] = flat_labels(y)
            start += len(y)
        return kept, labels


def _gather_of(dataset: Dataset[Any]) -> Callable[[Tensor], Any] | None:
    """A way to read many items of a data set at once, if it has one."""
    gather: Callable[[Tensor], Any] | None = getattr(dataset, "gather", None)
    if gather is None and type(dataset) is TensorDataset:
        tensors = dataset.tensors
        return lambda indices: tuple(t[indices.to(t.device)] for t in tensors)
    return gather


def _checked_indices(dataset: Dataset[Any], indices: Tensor | Sequence[int] | None) -> Tensor:
    length = dataset_length(dataset)
    chosen = torch.arange(length) if indices is None else item_indices(indices, length)
    if len(chosen) == 0:
        raise ValueError("the data set is empty: expected at least one sample")
    return chosen


def _unwrapped(dataset: Dataset[Any], indices: Tensor) -> tuple[Dataset[Any], Tensor]:
    """Look through plain Subsets, so that what lies below can be read at once."""
    while type(dataset) is Subset:
        indices = subset_indices(dataset)[indices]
        dataset = dataset.dataset
    return dataset, indices


def _columns(inputs: Inputs) -> dict[str, Tensor]:
    return {_ONLY: inputs} if isinstance(inputs, Tensor) else inputs


def _check_length(inputs: Inputs, labels: Tensor, count: int) -> None:
    """A batch of a user's function has a row for each of its items."""
    for name, values in {**_columns(inputs), "labels": labels}.items():
        if values.ndim == 0 or len(values) != count:
            raise ValueError(
                f"collate_fn made {name or 'inputs'} of shape {tuple(values.shape)} out of {count} "
                "items: a batch needs one row for each of its items, in their order"
            )


def _check_alike(first: dict[str, Tensor], later: dict[str, Tensor]) -> None:
    for name, kept in first.items():
        values = later.get(name)
        if values is None or kept.shape[1:] != values.shape[1:] or kept.dtype != values.dtype:
            other = "none" if values is None else f"{values.dtype} {tuple(values.shape[1:])}"
            raise ValueError(
                f"items differ: the first has {name or 'inputs'} of {kept.dtype} "
                f"{tuple(kept.shape[1:])}, a later one {other}: "
                "resize, pad or convert them in the data set, or give a collate_fn that pads"
            )
