"""Batches by index from any data set, as fast as memory allows.

Selection and warm starts read the same few thousand samples again and again. A data set that is
small and always gives the same items is decoded once and kept on the device, where a batch is one
``index_select``; anything else goes through a DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lipt_cords.batches import (
    Inputs,
    collate,
    dataset_length,
    flat_labels,
    labels_of,
    split_batch,
    to_device,
)
from lipt_cords.datasets import (
    DATASET_NAMES,
    DataSplits,
    canonical_dataset_name,
    data_directory,
    find_data,
    load_dataset,
)
from lipt_cords.errors import unknown_name
from lipt_cords.images import ImageTensors
from lipt_cords.randomness import isolated_rng, preserved_rng

__all__ = [
    "DATASET_NAMES",
    "BatchSource",
    "DataSplits",
    "ImageTensors",
    "Inputs",
    "canonical_dataset_name",
    "data_directory",
    "find_data",
    "labels_of",
    "load_dataset",
    "resolve_device",
    "split_batch",
    "to_device",
]

PROBED_ITEMS = 16


def resolve_device(name: str | torch.device) -> torch.device:
    """The torch device of a name; ``auto`` is a GPU if there is one.

    Raises:
        ValueError: an unknown device, or one that this machine does not have.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown_name("device", name, ("auto", "cpu", "cuda", "cuda:0", "mps")) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} asked for, but torch sees {torch.cuda.device_count()} GPUs: "
            "use device='auto' or 'cpu'"
        )
    return device


class BatchSource:
    """Batches by index: decoded once and kept on the device when that is possible, else streamed.

    A data set is kept when its items are the same at every read (the first few are read twice to
    find out) and fit in ``cache_bytes``. What is streamed may draw from the global random state,
    as a DataLoader does: wrap it in ``isolated_rng`` to make it reproducible.

    Args:
        dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels.
        indices: the items of this source, in order; None for all. No other item is read.
        device: where batches are given out.
        cache_bytes: most memory, in bytes, that the decoded items may take on the device.
        num_workers: processes that read a streamed data set.

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
    ) -> None:
        self.device = torch.device(device)
        self._num_workers = num_workers
        base, self._indices = _unwrapped(dataset, _checked_indices(dataset, indices))
        self._base = base
        if isinstance(base, ImageTensors):
            self.normalisation: tuple[Tensor, Tensor] | None = (base.mean, base.std)
        else:
            self.normalisation = None
        self._kept = self._keep(cache_bytes)
        if self._kept is None and isinstance(base, ImageTensors) and self.device.type != "cpu":
            chosen = base.images.nbytes * len(self) // max(1, len(base))
            if chosen <= cache_bytes:
                self._base = base.select(self._indices).to(self.device)
                self._indices = torch.arange(len(self))
        self.resident = self._kept is not None

    def __len__(self) -> int:
        return len(self._indices)

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the source's items, in its order: shape (n,), int64, on the CPU."""
        if self._kept is not None:
            return self._kept[1].cpu()
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
            inputs, labels = self._kept
            positions = torch.arange(len(self)) if order is None else order
            for part in torch.split(positions.to(self.device), batch_size):
                yield _taken(inputs, part), labels.index_select(0, part)
            return
        chosen = self._indices if order is None else self._indices[order.cpu()]
        gather = getattr(self._base, "gather", None)
        if gather is not None:
            for part in torch.split(chosen, batch_size):
                x, y = gather(part)
                yield to_device(x, self.device), y.to(self.device)
            return
        for batch in self._loader(chosen, batch_size):
            x, y = split_batch(batch)
            yield to_device(x, self.device), flat_labels(y).to(self.device)

    def _loader(self, chosen: Tensor, batch_size: int) -> DataLoader[Any]:
        return DataLoader(
            self._base,
            batch_size=batch_size,
            sampler=chosen.tolist(),
            num_workers=self._num_workers,
            pin_memory=self.device.type == "cuda",
            collate_fn=collate,
        )

    def _keep(self, cache_bytes: int) -> tuple[Inputs, Tensor] | None:
        """All items on the device, or None if they change between reads or are too large."""
        if cache_bytes <= 0:
            return None
        if type(self._base) is TensorDataset:
            x, y = split_batch(self._base.tensors)
            if x[:1].nbytes * len(self) > cache_bytes:  # type: ignore[index]
                return None
            kept = _taken(x, self._indices), flat_labels(y)[self._indices]
            return to_device(kept[0], self.device), kept[1].to(self.device)
        with preserved_rng():
            first = split_batch(collate([self._base[int(self._indices[0])]]))[0]
            if _nbytes(first) * len(self) > cache_bytes:
                return None
            if not isinstance(self._base, ImageTensors) and self._changes():
                return None
            return self._decoded()

    def _changes(self) -> bool:
        """Whether an item differs between two reads under different seeds."""
        reads = []
        for attempt in range(2):
            with isolated_rng(attempt, "read twice"):
                probe = self._indices[:PROBED_ITEMS].tolist()
                reads.append([split_batch(collate([self._base[i]])) for i in probe])
        return any(not _equal(a, b) for a, b in zip(*reads, strict=True))

    def _decoded(self) -> tuple[Inputs, Tensor]:
        chunk = 1024
        kept: list[tuple[Inputs, Tensor]] = []
        gather = getattr(self._base, "gather", None)
        if gather is not None:
            kept = [gather(part) for part in torch.split(self._indices, chunk)]
        else:
            kept = [split_batch(batch) for batch in self._loader(self._indices, chunk)]
        labels = torch.cat([flat_labels(y) for _, y in kept]).to(self.device)
        if isinstance(kept[0][0], Tensor):
            return torch.cat([x for x, _ in kept]).to(self.device), labels  # type: ignore[misc]
        columns = {key: [x[key] for x, _ in kept] for key in kept[0][0]}  # type: ignore[index]
        return {key: torch.cat(parts).to(self.device) for key, parts in columns.items()}, labels


def _checked_indices(dataset: Dataset[Any], indices: Tensor | Sequence[int] | None) -> Tensor:
    length = dataset_length(dataset)
    if indices is None:
        chosen = torch.arange(length)
    else:
        chosen = torch.as_tensor(indices, dtype=torch.int64).reshape(-1).cpu()
    if len(chosen) == 0:
        raise ValueError("the data set is empty: expected at least one sample")
    if int(chosen.min()) < 0 or int(chosen.max()) >= length:
        raise ValueError(
            f"indices must lie in [0, {length}), received {int(chosen.min())} to "
            f"{int(chosen.max())}"
        )
    return chosen


def _unwrapped(dataset: Dataset[Any], indices: Tensor) -> tuple[Dataset[Any], Tensor]:
    """Look through plain Subsets, so that what lies below can be read at once."""
    while type(dataset) is Subset:
        indices = torch.as_tensor(dataset.indices, dtype=torch.int64)[indices]
        dataset = dataset.dataset
    return dataset, indices


def _taken(inputs: Inputs, positions: Tensor) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.index_select(0, positions)
    return {key: value.index_select(0, positions) for key, value in inputs.items()}


def _nbytes(inputs: Inputs) -> int:
    return inputs.nbytes if isinstance(inputs, Tensor) else sum(v.nbytes for v in inputs.values())


def _equal(one: tuple[Inputs, Tensor], two: tuple[Inputs, Tensor]) -> bool:
    if not torch.equal(one[1], two[1]):
        return False
    a, b = one[0], two[0]
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and _same(a, b)
    return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN included: a NaN that stays is no change."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
