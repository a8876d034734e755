"""The search for decisions: how many storages to swap, by free time; the others are recomputed.

Capuchin swaps in order of free time as long as transfers are hidden, and then compares the tensors
one by one. But the cost of a tensor depends on the others, which share a link and are recomputed
from each other. So whole plans are compared here: for several numbers of swaps and several limits
of one group of recomputations, storages at the peak are recomputed until it fits, those with the
most bytes per second first, and the cheapest plan that fits is taken. Plans without swaps and with
swaps only are always tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from lipt_cords.training.memory.recipes import TraceIndex, free_time
from lipt_cords.training.memory.timeline import Timeline, simulate
from lipt_cords.training.memory.trace import RECOMPUTE, SWAP

GRID = 8
"""How many numbers of swaps are tried first; then those between the best and its neighbours."""
LIMITS = tuple(2.0**-power for power in (0, 2, 3, 4, 5, 6, 7))
"""Shares of all saved bytes that one group of recomputations may have: storages that are recomputed
from each other are in memory together. What is kept between two groups is a checkpoint."""


@dataclass(frozen=True)
class Solution:
    """Decisions, and their effect."""

    decisions: dict[int, str]
    timeline: Timeline

    def better(self, other: Solution, budget: int) -> bool:
        """Whether it fits and costs less, or is closer to fitting."""
        mine, others = self.timeline, other.timeline
        if mine.peak <= budget and others.peak <= budget:
            return (mine.seconds, mine.peak) < (others.seconds, others.peak)
        return mine.peak < others.peak


class Search:
    """The search for decisions for one step.

    Args:
        index: the step.
        budget: bytes.
        bandwidth: bytes a second of the link to the host, each way.
        swaps: whether storages may go to the host.
        remakes: whether they may be recomputed.
        timed: whether measured seconds are used; without them and with a budget of 0 the lowest
            peak does not depend on measured times.
    """

    def __init__(
        self,
        index: TraceIndex,
        budget: int,
        bandwidth: float,
        *,
        swaps: bool,
        remakes: bool,
        timed: bool = True,
    ) -> None:
        self._course, self._budget, self._bandwidth = index, budget, bandwidth
        self._swaps, self._remakes = swaps, remakes
        storages = index.trace.storages
        idle = self._idle_seconds if timed else self._idle_operations
        self._idle = sorted(index.candidates, key=idle, reverse=True)
        recipes = {one: recipe for one, recipe in index.recipes.items() if recipe is not None}
        self._rank = {
            one: (recipe.seconds if timed else 1.0) / max(1, storages[one].size)
            for one, recipe in recipes.items()
        }
        """Seconds per byte of recomputing it: the inverse of Capuchin's MSPS."""
        self._early = {one: float(storages[one].born) for one in recipes}
        """In the order of the net: what does not fit in one group is a checkpoint for the next."""
        self._near: dict[int, set[int]] = {one: set() for one in recipes}
        for one, recipe in recipes.items():
            for source in recipe.sources:
                if source in recipes:
                    self._near[one].add(source)
                    self._near[source].add(one)
        self._tried: dict[int, Solution] = {}

    def best(self) -> Solution:
        """The cheapest decisions that fit; if none fit, those with the lowest peak."""
        nothing = Solution({}, self._follow({}))
        if nothing.timeline.peak <= self._budget:
            return nothing
        most = len(self._idle) if self._swaps else 0
        numbers = [0]
        if self._swaps and self._remakes:
            numbers = sorted({round(most * step / GRID) for step in range(GRID + 1)})
        for number in numbers:
            self._try(number)
        while len(numbers) > 1:
            place = numbers.index(self._best_number())
            around = numbers[max(0, place - 1) : place + 2]
            fresh = {(low + high) // 2 for low, high in pairwise(around)} - set(numbers)
            if not fresh:
                break
            for number in sorted(fresh):
                self._try(number)
            numbers = sorted({*numbers, *fresh})
        found = self._tried[self._best_number()]
        return self._spared(found) if found.timeline.peak <= self._budget else found

    def _best_number(self) -> int:
        best = next(iter(self._tried))
        for number, found in self._tried.items():
            if found.better(self._tried[best], self._budget):
                best = number
        return best

    def _follow(self, decisions: dict[int, str]) -> Timeline:
        return simulate(self._course, decisions, self._bandwidth, self._budget)

    def _idle_operations(self, one: int) -> float:
        storage = self._course.trace.storages[one]
        return storage.accesses[0] - (storage.saved or 0)

    def _idle_seconds(self, one: int) -> float:
        return free_time(self._course, one, self._bandwidth)

    def _try(self, number: int) -> None:
        """Swap the first ones, and recompute others under each limit."""
        swapped = dict.fromkeys(self._idle[:number], SWAP)
        start = Solution(swapped, self._follow(swapped))
        self._tried[number] = found = start
        fits = [one for one in self._tried.values() if one.timeline.peak <= self._budget]
        if any(one.timeline.seconds <= start.timeline.seconds for one in fits):
            return  # it already costs more, and costs only grow
        for rank in (self._rank, self._early) if self._remakes else (self._rank,):
            for limit in LIMITS if self._remakes else LIMITS[:1]:
                more = self._fill(start, limit * self._course.trace.activations, rank)
                if more.better(found, self._budget):
                    found = more
            if found.timeline.peak <= self._budget:
                break
        self._tried[number] = found

    def _fill(self, start: Solution, limit: float, rank: dict[int, float]) -> Solution:
        """Evict storages at the peak until it fits, or none is left there."""
        decisions, now, best = dict(start.decisions), start.timeline, start
        while now.peak > self._budget and self._lower(decisions, now, limit, rank):
            now = self._follow(decisions)
            found = Solution(dict(decisions), now)
            if found.better(best, self._budget):
                best = found
        return best

    def _lower(
        self, decisions: dict[int, str], now: Timeline, limit: float, rank: dict[int, float]
    ) -> bool:
        """Decide on more storages at the peak; returns whether there were any."""
        at, storages = now.peak_at, self._course.trace.storages
        idle = {
            one for one in self._course.candidates
            if one not in decisions and storages[one].released <= at < storages[one].accesses[0]
        }  # fmt: skip
        excess, taken = now.peak - self._budget, 0
        if self._remakes:
            for one in sorted(idle & rank.keys(), key=rank.__getitem__):
                if self._group(one, decisions) <= limit:
                    decisions[one] = RECOMPUTE
                    taken += storages[one].size
                if taken >= excess:
                    break
        if taken or not self._swaps:
            return taken > 0
        for one in (one for one in self._idle if one in idle):
            decisions[one] = SWAP
            taken += storages[one].size
            if taken >= excess:
                break
        return taken > 0

    def _group(self, one: int, decisions: dict[int, str]) -> int:
        """Bytes of all storages that would be recomputed together with this one."""
        group, stack = {one}, [one]
        while stack:
            for other in self._near[stack.pop()] - group:
                if decisions.get(other) == RECOMPUTE:
                    group.add(other)
                    stack.append(other)
        return sum(self._course.trace.storages[other].size for other in group)

    def _spared(self, found: Solution) -> Solution:
        """Remove or switch decisions, the most expensive first, if that costs less."""
        decisions, now = dict(found.decisions), found.timeline
        costs = {
            one: now.recomputed.get(one, 0.0) + now.waited.get(one, 0.0) + now.held_up.get(one, 0.0)
            for one in decisions
        }
        for one in sorted(decisions, key=lambda one: -costs[one]):
            fewer = {other: what for other, what in decisions.items() if other != one}
            after = self._follow(fewer)
            if after.peak <= self._budget and after.seconds <= now.seconds:
                decisions, now = fewer, after
                continue
            other = RECOMPUTE if decisions[one] == SWAP else SWAP
            allowed = self._swaps if other == SWAP else self._remakes and one in self._rank
            if not allowed or not costs[one]:
                continue
            after = self._follow(decisions | {one: other})
            if after.peak <= self._budget and after.seconds < now.seconds:
                decisions, now = decisions | {one: other}, after
        return Solution(decisions, now)
