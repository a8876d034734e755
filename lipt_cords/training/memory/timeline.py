"""Simulates a plan: bytes in memory at every operation, and the seconds that it costs.

The rules are those of the guided step. A swapped storage is freed after its transfer; the link
takes one transfer at a time in each direction; the fetch starts at its trigger. If more than the
budget would be in memory, the step waits for transfers to the host. A recomputed storage ends with
the forward pass, is recomputed at its first use, and keeps its sources until the backward pass has
released it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipt_cords.training.memory.recipes import TraceIndex
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP


@dataclass(frozen=True)
class Timeline:
    """A simulated step under a plan.

    Attributes:
        live: bytes during every operation, shape (ops,).
        before: peak bytes just before an operation, during recomputations for it; shape (ops,), 0
            where there are none.
        waited: seconds that the backward pass waits for each late swapped storage.
        held_up: seconds that the step waits for the transfer of each swapped storage to the host,
            so that it fits.
        recomputed: seconds to recompute each storage.
        left: the operation before which each evicted storage is freed; without those that stayed.
        back: the operation before which it is in memory again.
        ends: the operation before which each storage is finally freed, shape (storages,).
    """

    live: NDArray[np.int64]
    before: NDArray[np.int64]
    waited: dict[int, float]
    held_up: dict[int, float]
    recomputed: dict[int, float]
    left: dict[int, int]
    back: dict[int, int]
    ends: NDArray[np.int64]

    @property
    def peak(self) -> int:
        """The most bytes."""
        return int(max(self.live.max(initial=0), self.before.max(initial=0)))

    @property
    def peak_at(self) -> int:
        """The operation at the peak."""
        return int(np.argmax(np.maximum(self.live, self.before)))

    @property
    def seconds(self) -> float:
        """Seconds that the plan adds to the step."""
        return sum(sum(some.values()) for some in (self.waited, self.held_up, self.recomputed))


def needs(index: TraceIndex, decisions: Mapping[int, str]) -> tuple[dict[int, int], dict[int, int]]:
    """When evicted storages are first needed, and when storages end.

    Returns:
        The first event that needs each evicted storage, also for a recomputation; and the operation
        before which each storage in recomputations ends.
    """
    storages = index.trace.storages
    first = {one: index.first_event[one] for one, what in decisions.items() if what != KEEP}
    ends = dict[int, int]()
    recomputed = [one for one, what in decisions.items() if what == RECOMPUTE]
    for one in sorted(recomputed, key=index.done_at, reverse=True):
        recipe, end = index.recipes[one], max(ends.get(one, 0), storages[one].done)
        ends[one] = end
        if recipe is None:
            raise ValueError(f"storage {one} cannot be recomputed: a call is not repeatable")
        for source in recipe.sources:
            ends[source] = max(ends.get(source, storages[source].end), end)
            if source in first:
                first[source] = min(first[source], first[one])
    return first, ends


def triggers(
    index: TraceIndex,
    decisions: Mapping[int, str],
    bandwidth: float,
    budget: float = math.inf,
    earlier: Mapping[int, float] | None = None,
) -> dict[int, int]:
    """The event at which the fetch of each swapped storage starts (Capuchin's in-trigger).

    As late as possible: from the last storage to the first, each transfer ends where its storage is
    needed or where the next transfer must start, whichever is first; but not before there is room
    for it.

    Args:
        index: the step.
        decisions: by storage.
        bandwidth: bytes a second.
        budget: bytes.
        earlier: seconds by which feedback moves a trigger forward.
    """
    trace = index.trace
    swapped = [one for one, what in decisions.items() if what == SWAP]
    if not swapped:
        return {}
    first, _ = needs(index, decisions)
    ops = np.array([op for op, _ in trace.events])
    times = trace.starts[ops]
    free, found = np.inf, dict[int, int]()
    for one in sorted(swapped, key=lambda number: (first[number], number), reverse=True):
        start = min(float(times[first[one]]), free) - trace.storages[one].size / bandwidth
        start -= (earlier or {}).get(one, 0.0)
        found[one] = max(0, min(first[one], int(np.searchsorted(times, start, "right")) - 1))
        free = start
    found = dict(reversed(found.items()))  # the storage that is needed first is fetched first
    if budget == math.inf:
        return found
    late = {one: first[one] for one in swapped}
    without = simulate(index, decisions, bandwidth, budget, late)
    taken = np.maximum(without.live, without.before)
    for one in sorted(swapped, key=lambda number: (first[number], number)):
        size, begin, end = trace.storages[one].size, int(ops[found[one]]), int(ops[first[one]])
        full = np.flatnonzero(taken[begin:end] + size > budget)
        if len(full):
            begin += int(full[-1]) + 1
            found[one] = min(first[one], int(np.searchsorted(ops, begin)))
        taken[int(ops[found[one]]) : end] += size
    return found


def simulate(
    index: TraceIndex,
    decisions: Mapping[int, str],
    bandwidth: float,
    budget: float = math.inf,
    starts: Mapping[int, int] | None = None,
) -> Timeline:
    """Simulate a step under decisions.

    Args:
        index: the step.
        decisions: ``swap`` or ``recompute`` by storage; others are kept.
        bandwidth: bytes a second of each direction of the link to the host.
        budget: bytes; if more would be in memory, the step waits for transfers to the host.
        starts: the event at which the fetch of each swapped storage starts; None: ``triggers``.
    """
    if starts is None:
        starts = triggers(index, decisions, bandwidth, budget)
    return _Simulation(index, decisions, bandwidth, budget, starts).through()


class _Simulation:
    """One pass through the operations."""

    def __init__(
        self,
        index: TraceIndex,
        decisions: Mapping[int, str],
        bandwidth: float,
        budget: float,
        starts: Mapping[int, int],
    ) -> None:
        trace = index.trace
        self._course, self._trace, self._budget = index, trace, budget
        self._bandwidth = bandwidth
        self._swapped = {one for one, what in decisions.items() if what == SWAP}
        self._first, longer = needs(index, decisions)
        self._ends = index.ends.copy()
        for one, end in longer.items():
            self._ends[one] = max(self._ends[one], end)
        self._released = {one: trace.storages[one].released for one in self._first}
        self._saved: dict[int, list[int]] = {}
        for one in sorted(self._swapped, key=lambda one: index.saved_as.get(one, one)):
            self._saved.setdefault(trace.storages[one].saved or 0, []).append(one)
        # Before an operation: the triggers of a demand, then its own storage.
        self._demands: dict[int, list[tuple[int, int, int, int]]] = {}
        for one, event in self._first.items():
            self._at(event).append((event, 1, index.done_at(one), one))
            if one in self._swapped:
                start = min(starts[one], event)
                self._at(start).append((start, 0, event, one))
        self._time, self._link_in, self._link_out = 0.0, 0.0, 0.0
        self._pending: deque[tuple[float, int]] = deque()
        self._sent: dict[int, float] = {}
        self._arrives: dict[int, float] = {}
        self._live = trace.base
        self.waited: dict[int, float] = {}
        self.held_up: dict[int, float] = {}
        self.recomputed: dict[int, float] = {}
        self.left: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def through(self) -> Timeline:
        """Walk."""
        index, trace = self._course, self._trace
        ops = len(trace.ops)
        live, before = np.zeros(ops, dtype=np.int64), np.zeros(ops, dtype=np.int64)
        ends: dict[int, list[int]] = {}
        for one, end in enumerate(self._ends.tolist()):
            if one not in self._first:
                ends.setdefault(end, []).append(one)
            else:
                ends.setdefault(max(end, self._released[one]), []).append(one)
                ends.setdefault(self._released[one], []).append(-1 - one)
        lasts = np.diff(trace.starts).tolist()
        for op in range(ops):
            for one in self._saved.get(op, ()):
                self._link_out = max(self._link_out, self._time) + self._size(one) / self._bandwidth
                self._pending.append((self._link_out, one))
            self._depart(op)
            for one in ends.get(op, ()):
                if one >= 0:
                    if one not in self.left or one in self.back:
                        self._live -= self._size(one)
                elif -1 - one not in self._swapped or -1 - one in self._sent:
                    self._leave(-1 - one, op)
            if op in self._demands:
                before[op] = self._meet(op)
            self._live += index.births[op]
            if self._live > self._budget:
                self._make_room(0, op)
            live[op] = self._live
            self._time += lasts[op]
        if ops in self._demands:
            self._meet(ops)
        return Timeline(
            live, before, self.waited, self.held_up, self.recomputed,
            self.left, self.back, self._ends,
        )  # fmt: skip

    def _meet(self, op: int) -> int:
        """Serve the demands of the backward pass; returns the peak bytes meanwhile."""
        most = 0
        for _, kind, _, one in sorted(self._demands[op]):
            if kind == 0:
                self._fetch(one, op)
            elif one in self._swapped:
                self._wait_for(one)
            else:
                most = max(most, self._make(one, op))
        self._depart(op)  # during this time
        return most

    def _at(self, event: int) -> list[tuple[int, int, int, int]]:
        return self._demands.setdefault(self._trace.events[event][0], [])

    def _size(self, one: int) -> int:
        return self._trace.storages[one].size

    def _depart(self, op: int) -> None:
        """Note the transfers that have ended."""
        while self._pending and self._pending[0][0] <= self._time:
            self._send(op)

    def _send(self, op: int) -> None:
        """Note the end of the next transfer to the host."""
        when, one = self._pending.popleft()
        self._sent[one] = when
        if self._released[one] <= op and one not in self.back:
            self._leave(one, op)

    def _leave(self, one: int, op: int) -> None:
        if one not in self.back and one not in self.left:
            self.left[one] = op
            self._live -= self._size(one)

    def _make_room(self, more: int, op: int) -> None:
        """Wait for transfers to the host, as long as there is too much in memory."""
        while self._live + more > self._budget and any(
            self._released[one] <= op and one not in self.back for _, one in self._pending
        ):
            when, one = self._pending[0]
            if when > self._time:
                self.held_up[one] = self.held_up.get(one, 0.0) + when - self._time
                self._time = when
            self._send(op)

    def _fetch(self, one: int, op: int) -> None:
        self._depart(op)
        if one not in self.left:  # not yet sent: it stays
            self._arrives[one] = self._time
        else:
            self._make_room(self._size(one), op)
            self._live += self._size(one)
            self._link_in = max(self._link_in, self._time) + self._size(one) / self._bandwidth
            self._arrives[one] = self._link_in
        self.back[one] = op

    def _wait_for(self, one: int) -> None:
        late = self._arrives[one] - self._time
        if late > 0:
            self.waited[one] = late
            self._time += late

    def _make(self, one: int, op: int) -> int:
        """Recompute a storage; returns the peak bytes meanwhile."""
        recipe = self._course.recipes[one]
        if recipe is None:
            raise ValueError(f"storage {one} cannot be recomputed: a call is not repeatable")
        self._depart(op)
        self._make_room(recipe.peak, op)
        most = self._live + recipe.peak
        self._live += self._size(one)
        self._time += recipe.seconds
        self.recomputed[one], self.back[one] = recipe.seconds, op
        return most
