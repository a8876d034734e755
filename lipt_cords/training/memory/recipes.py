"""A trace prepared for planning: candidates, their first use, and how they are recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lipt_cords.training.memory.trace import Trace, lineage


@dataclass(frozen=True)
class Recipe:
    """How a storage is recomputed: the operations, their inputs and their costs.

    Attributes:
        ops: in order.
        sources: saved storages that they read.
        seconds: of all operations.
        peak: the most bytes they have in memory at once, the result included.
    """

    ops: tuple[int, ...]
    sources: tuple[int, ...]
    seconds: float
    peak: int


class TraceIndex:
    """A trace with lookup tables for planning.

    Args:
        trace: the step.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.candidates = tuple(
            number for number, storage in enumerate(trace.storages) if storage.candidate
        )
        saved = {n for n, s in enumerate(trace.storages) if s.saved is not None and s.movable}
        self.recipes = {one: self._recipe(one, saved) for one in self.candidates}
        self.saved_as = {one: place for place, one in reversed([*enumerate(trace.packs)])}
        """The first saved tensor of each storage; storages are swapped out in that order."""
        self.first_event: dict[int, int] = {}
        for number, (_, storage) in enumerate(trace.events):
            self.first_event.setdefault(storage, number)

    def done_at(self, one: int) -> int:
        """The operation of the forward pass that last makes or changes a storage."""
        return self.trace.writers.get(one, (self.trace.storages[one].born,))[-1]

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The operation before which each storage ends in a plain step."""
        return np.array([storage.end for storage in self.trace.storages], dtype=np.int64)

    @cached_property
    def births(self) -> list[int]:
        """Bytes that each operation makes."""
        births = [0] * len(self.trace.ops)
        for storage in self.trace.storages:
            births[storage.born] += storage.size
        return births

    def _recipe(self, storage: int, saved: set[int]) -> Recipe | None:
        found = lineage(self.trace, storage, saved - {storage})
        if found is None:
            return None
        ops, sources = found
        last_use = {}
        for number in ops:
            for touched in (*self.trace.ops[number].reads, *self.trace.ops[number].writes):
                last_use[touched] = number
        live, peak = dict[int, int](), 0
        for number in ops:
            for made in self.trace.ops[number].writes:
                live[made] = self.trace.storages[made].size
            peak = max(peak, sum(live.values()) + self.trace.ops[number].copied)
            # A source that is recomputed on the way is already there, and is dropped.
            live = {
                one: size for one, size in live.items()
                if one == storage or (one not in sources and last_use[one] > number)
            }  # fmt: skip
        return Recipe(ops, sources, sum(self.trace.ops[number].seconds for number in ops), peak)


def free_time(index: TraceIndex, storage: int, bandwidth: float) -> float:
    """Seconds between its two transfers: (back - swap time) - (last + swap time)."""
    one, starts = index.trace.storages[storage], index.trace.starts
    swap = one.size / bandwidth
    return float(starts[one.accesses[0]] - swap - (starts[one.saved or 0] + swap))
