"""The batches of a worker: shuffled epochs over its samples, checked for NaN once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.data.batches import Inputs
from lipt_cords.data.source import SCAN_BATCH, BatchSource, require_finite
from lipt_cords.training.schedules import steps_per_epoch


class Pool:
    """Samples that several workers share: decoded and scanned once, if they fit in memory.

    Args:
        dataset: a map-style data set.
        indices: ascending indices of the samples; no other is read.
        device: where they are kept.
        loader_workers: processes that read them.
        changing: whether items differ between reads; None tests it.
        cache_bytes: largest memory that they may take; None for the default limit.

    Raises:
        ValueError: an input that is not finite; the message names the first such sample.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        indices: Tensor,
        device: torch.device,
        loader_workers: int = 0,
        *,
        changing: bool | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.indices = indices
        limit: dict[str, Any] = {} if cache_bytes is None else {"cache_bytes": cache_bytes}
        self.source = BatchSource(
            dataset,
            indices,
            device=device,
            num_workers=loader_workers,
            changing=changing,
            **limit,
        )
        self._build = partial(Pool, dataset, device=device, loader_workers=loader_workers)
        self._parts: dict[int, Pool] = {}
        self._room = self.source.cache_bytes
        self.channels: tuple[Tensor, Tensor] | None = None
        """Range of each image channel, once known, for a source that is read in every epoch."""
        if self.source.resident:
            places = torch.split(torch.arange(len(indices)), SCAN_BATCH)
            batches = self.source.batches(batch_size=SCAN_BATCH)
            for place, (inputs, _) in zip(places, batches, strict=True):
                require_finite(inputs, indices[place])

    def places_of(self, indices: Tensor) -> Tensor | None:
        """Positions of some samples in the source; None unless all of them are kept in memory."""
        if not self.source.resident:
            return None
        places = torch.searchsorted(self.indices, indices).clamp_max(len(self.indices) - 1)
        return places if self.indices[places].equal(indices) else None

    def part(self, indices: Tensor, reads: int | None = None) -> Pool:
        """A pool of some samples that are not kept here.

        Args:
            indices: ascending indices of the samples; no other is read.
            reads: how many samples will be read in this round, if later rounds read the same ones
                again. Then the part is kept for them too if all parts together fit in memory; else
                it is streamed where this reads fewer samples.
        """
        part = self._parts.get(int(indices[0]))
        if part is not None and part.indices.equal(indices):
            return part
        few = reads is not None and reads < len(indices)
        limit = self._room if few else self.source.cache_bytes
        part = self._build(indices, changing=self.source.changing, cache_bytes=limit)
        if reads is not None and part.source.nbytes <= self._room:
            self._room -= part.source.nbytes
            self._parts[int(indices[0])] = part
        return part


class WorkerBatches:
    """Endless training batches of a worker's samples.

    Samples kept in memory were scanned for NaN and infinity when they were read. Streamed ones are
    scanned batch by batch in their first epoch, before they are returned.

    Args:
        dataset: a map-style data set.
        indices: ascending indices of the samples; no other is read.
        device: device of the batches.
        pool: samples that are already in memory; without it, or if it lacks some, they are read
            here.
        loader_workers: processes that read them without a pool.
        reads: samples that will be read in this round, if there are several; see :meth:`Pool.part`.

    Raises:
        ValueError: an input that is not finite; the message names the sample.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        indices: Tensor,
        device: torch.device,
        pool: Pool | None = None,
        loader_workers: int = 0,
        reads: int | None = None,
    ) -> None:
        self.indices = indices
        places = None if pool is None else pool.places_of(indices)
        if pool is None:
            pool = Pool(dataset, indices, device, loader_workers)
        elif places is None:
            pool = pool.part(indices, reads)
        if places is None:
            places = torch.arange(len(indices))
        self.pool, self.source, self._places = pool, pool.source, places
        self.current = torch.zeros(0, dtype=torch.int64)
        """Positions in ``indices`` of the batch that was yielded last."""

    def __len__(self) -> int:
        return len(self.indices)

    def epochs(
        self, batch_size: int, generator: torch.Generator, *, skip: int = 0
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield batches for ever, in a new order every epoch.

        The last batch of an epoch may be short, but never a single sample, on which BatchNorm
        cannot train: a single one is added to the batch before it.

        Args:
            batch_size: samples in a batch.
            generator: draws the orders.
            skip: batches of earlier rounds; they are drawn, but not read.
        """
        past, behind = divmod(skip, steps_per_epoch(len(self), batch_size))
        for _ in range(past):
            torch.randperm(len(self), generator=generator)
        scanned = self.source.resident
        while True:
            order = torch.randperm(len(self), generator=generator)
            yield from self.in_order(order, batch_size, scan=not scanned, skip=behind)
            scanned, behind = scanned or behind == 0, 0

    def in_order(
        self, order: Tensor, batch_size: int, *, scan: bool, skip: int = 0
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield one epoch of batches in the given order of positions, without the first ones."""
        last = (steps_per_epoch(len(order), batch_size) - 1) * batch_size
        order, last = order[skip * batch_size :], last - skip * batch_size
        for part, size in ((order[:last], batch_size), (order[last:], batch_size + 1)):
            if len(part) == 0:
                continue
            batches = self.source.batches(self._places[part], batch_size=size)
            for number, (inputs, labels) in enumerate(batches):
                self.current = part[number * size :][: len(labels)]
                if scan:
                    require_finite(inputs, self.indices[self.current])
                yield inputs, labels


def channel_range(worker_batches: WorkerBatches) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each image channel, shapes (C,), on their device.

    They are exact where the data set gives its normalisation. Otherwise up to 1024 images are read,
    spread over the samples because files are often sorted by class. More are not read even from
    memory, because what is in memory depends on the number of ranks.
    """
    source = worker_batches.source
    if source.normalisation is not None:
        mean, std = (value.to(source.device) for value in source.normalisation)
        return -mean / std, (1 - mean) / std
    if worker_batches.pool.channels is not None:
        return worker_batches.pool.channels
    every = max(1, -(-len(worker_batches) // SCAN_BATCH))
    lows, highs = [], []
    for images, _ in worker_batches.in_order(
        torch.arange(0, len(worker_batches), every), SCAN_BATCH, scan=False
    ):
        if not isinstance(images, Tensor):
            raise ValueError("expected images, received a mapping: set augmentation='none'")
        lows.append(images.amin(dim=(0, 2, 3)))
        highs.append(images.amax(dim=(0, 2, 3)))
    found = torch.stack(lows).amin(dim=0), torch.stack(highs).amax(dim=0)
    if not source.resident and source.changing is False:  # a part, and always the same
        worker_batches.pool.channels = found
    return found
