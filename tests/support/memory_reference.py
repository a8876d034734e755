"""A slow simulator of a step under decisions, which the planner's is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lipt_cords.training.memory.trace import RECOMPUTE, SWAP, Trace, lineage


class SlowSimulator:
    """Follows a step operation by operation and demand by demand, with a set of what is there.

    The rules: the link takes one transfer at a time in each direction. A swapped storage goes out
    when it is saved, is gone once its copy has arrived and the forward pass has let go of it, and
    comes back from its trigger on, the one needed first before others with the same trigger. A
    recomputed one is gone once the forward pass has let go of it, is made again where it is first
    needed, in the order of the forward pass, and holds what it was made from while it lives. Where
    more than the budget would be there, the step waits for what is leaving. Waits and
    recomputations delay all that follows.

    Args:
        trace: the step.
        decisions: by storage.
        bandwidth: bytes a second.
        budget: bytes.
        starts: the demand at which each swapped storage starts to come back.
    """

    def __init__(
        self,
        trace: Trace,
        decisions: Mapping[int, str],
        bandwidth: float,
        budget: float,
        starts: Mapping[int, int],
    ) -> None:
        self.trace, self.storages = trace, trace.storages
        self.bandwidth, self.budget = bandwidth, budget
        self.swapped = {one for one, what in decisions.items() if what == SWAP}
        saved = {n for n, s in enumerate(self.storages) if s.saved is not None and s.movable}
        self.recipes = {
            one: lineage(trace, one, saved - {one})
            for one, what in decisions.items()
            if what == RECOMPUTE
        }
        self.first = self._first_needs()
        self.starts = {one: min(starts[one], self.first[one]) for one in self.swapped}
        self.now = self.out_is_free = self.back_is_free = 0.0
        self.here, self.got = set[int](), set[int]()
        self.arrives_there: dict[int, float] = {}
        self.arrives_here: dict[int, float] = {}
        self.live: list[int] = []
        self.before: list[int] = []
        self.waited: dict[int, float] = {}
        self.held_up: dict[int, float] = {}
        self.recomputed: dict[int, float] = {}
        self.left: dict[int, int] = {}
        self.back: dict[int, int] = {}
        for op in range(len(trace.ops)):
            self._follow(op)

    def needed(self, one: int) -> set[int]:
        """What has to be brought or made for a demand, if nothing of it is there."""
        if one in self.recipes:
            return {one}.union(*(self.needed(source) for source in self.recipes[one][1]))
        return {one} & self.swapped

    def until(self, one: int) -> int:
        """Before which operation it ends; what is made from it holds it."""
        made = [other for other, (_, sources) in self.recipes.items() if one in sources]
        return max([self.storages[one].end, *map(self.until, made)])

    def _first_needs(self) -> dict[int, int]:
        found, held = dict[int, int](), set[int]()
        for event, (_, one) in enumerate(self.trace.events):
            for other in self.needed(one) - held:
                found[other] = event
            held |= self.needed(one)
        return found

    def _follow(self, op: int) -> None:
        """Go through what happens before an operation, and then through it."""
        for one in dict.fromkeys(self.trace.packs):
            if one in self.swapped and self.storages[one].saved == op:
                self.out_is_free = max(self.out_is_free, self.now)
                self.out_is_free += self.storages[one].size / self.bandwidth
                self.arrives_there[one] = self.out_is_free
        self.here = {one for one in self.here if op < self.until(one)}
        self._leave(op)
        self.before.append(0)
        for event, (when, demand) in enumerate(self.trace.events):
            if when != op:
                continue
            for one in sorted(self.swapped, key=lambda one: (self.first[one], self._made(one))):
                if self.starts[one] == event:
                    self._fetch(one, op)
            missing = self.needed(demand) - self.got
            for one in sorted(missing, key=self._made):
                self.got.add(one)
                if one in self.recipes:
                    self._make(one, op)
                elif self.arrives_here[one] > self.now:
                    self.waited[one] = self.arrives_here[one] - self.now
                    self.now = self.arrives_here[one]
        self.here |= {one for one, storage in enumerate(self.storages) if storage.born == op}
        self._make_room(0, op)
        self.live.append(self._bytes())
        self.now += self.trace.ops[op].seconds

    def _made(self, one: int) -> int:
        """The operation that wrote to it last."""
        return self.trace.writers[one][-1]

    def _bytes(self) -> int:
        return self.trace.base + sum(self.storages[one].size for one in self.here)

    def _leave(self, op: int) -> None:
        """What is no longer needed here, and is on the host or can be made again, goes."""
        for one in sorted(self.here & {*self.swapped, *self.recipes} - self.back.keys()):
            safe = one in self.recipes or self.arrives_there.get(one, math.inf) <= self.now
            if self.storages[one].released <= op and safe:
                self.here.remove(one)
                self.left[one] = op

    def _make_room(self, more: int, op: int) -> None:
        self._leave(op)
        while self._bytes() + more > self.budget:
            leaving = {
                self.arrives_there[one]: one
                for one in self.here & self.arrives_there.keys() - self.back.keys()
                if self.storages[one].released <= op
            }
            if not leaving:
                return
            when = min(leaving)
            self.held_up[leaving[when]] = when - self.now
            self.now = when
            self._leave(op)

    def _fetch(self, one: int, op: int) -> None:
        self._leave(op)
        if one not in self.here:
            self._make_room(self.storages[one].size, op)
            self.here.add(one)
            self.back_is_free = max(self.back_is_free, self.now)
            self.back_is_free += self.storages[one].size / self.bandwidth
            self.arrives_here[one] = self.back_is_free
        else:
            self.arrives_here[one] = self.now
        self.back[one] = op

    def _make(self, wanted: int, op: int) -> None:
        """Make it again: do what its recipe says, with a set of what that needs."""
        ops, sources = self.recipes[wanted]
        here, most, seconds = set[int](), 0, 0.0
        for place, number in enumerate(ops):
            here.update(self.trace.ops[number].writes)
            most = max(most, sum(self.storages[one].size for one in here))
            later = {one for other in ops[place + 1 :] for one in self.trace.ops[other].reads}
            here = {one for one in here if one == wanted or (one in later and one not in sources)}
            seconds += self.trace.ops[number].seconds
        self._make_room(most, op)
        self.before[op] = max(self.before[op], self._bytes() + most)
        self.here.add(wanted)
        self.recomputed[wanted], self.back[wanted] = seconds, op
        self.now += seconds
