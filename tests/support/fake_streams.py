"""Streams that run at random moments, as late as they may, and see every wrong order.

Memory holds poison until the work runs that fills it. Work that uses memory which is free by then,
or into which earlier work of another stream may still write, is a violation.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POISON = 0xA5


class FakeEvent:
    """Done when its stream has run what it was given before."""

    def __init__(self, streams: FakeStreams, stream: FakeStream, timed: bool) -> None:
        self.streams, self.stream, self.timed, self.done = streams, stream, timed, False

    def query(self) -> bool:
        self.streams.run_some()
        return self.done

    def synchronize(self) -> None:
        self.streams.run_until(self)

    def elapsed_time(self, other: FakeEvent) -> float:
        assert self.timed and other.timed and self.done and other.done
        return 1.0


class FakeStream:
    """Work in order: calls, and events to wait for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Callable[[], None] | FakeEvent] = deque()

    def step(self) -> bool:
        """Run its next work; returns whether it could."""
        if not self.queue:
            return False
        work = self.queue[0]
        if isinstance(work, FakeEvent):
            if not work.done:
                return False
            self.queue.popleft()
        else:
            self.queue.popleft()
            work()
        return True


class FakeStreams:
    """What a link needs of a device.

    Args:
        random: decides what runs when.
        at_once: the step's own work is not queued, as on a CPU; copies are.
    """

    def __init__(self, random: Random, *, at_once: bool = False) -> None:
        self.random, self.at_once = random, at_once
        self.main, self.side = FakeStream("main"), FakeStream("side")
        self.all = [self.main, self.side]
        self.now = self.main
        self.violations: list[str] = []
        self.born: weakref.WeakKeyDictionary[Any, FakeEvent] = weakref.WeakKeyDictionary()
        self.arrays: dict[int, NDArray[np.uint8]] = {}
        self.noted: set[tuple[int, str]] = set()

    def here(self, size: int) -> Tensor:
        memory = self.host(size)
        self.born[memory.untyped_storage()] = self.record(self.now)
        return memory

    def host(self, size: int) -> Tensor:
        """Memory that stays readable when it is free, so that its use can be seen."""
        array = np.full(size, POISON, dtype=np.uint8)
        memory = torch.from_numpy(array)
        self.arrays[memory.data_ptr()] = array
        return memory

    def new(self) -> FakeStream:
        stream = FakeStream(["out", "back"][len(self.all) - 2])
        self.all.append(stream)
        return stream

    def current(self) -> FakeStream:
        return self.now

    def record(self, stream: FakeStream, *, timed: bool = False) -> FakeEvent:
        event = FakeEvent(self, stream, timed)
        self.give(stream, lambda: setattr(event, "done", True))
        return event

    def wait(self, stream: FakeStream, event: FakeEvent) -> None:
        if self.at_once and stream is self.main:
            self.run_until(event)
        else:
            stream.queue.append(event)

    def copy(self, target: Tensor, source: Tensor, stream: FakeStream) -> None:
        ends = [weakref.ref(one.untyped_storage()) for one in (target, source)]
        to, of = self._memory(target), self._memory(source)

        def run() -> None:
            there, here = (end() for end in ends)
            if there is None or here is None:
                self.violations.append(f"a copy of stream {stream.name} uses memory that is free")
            made = None if there is None else self.born.get(there)
            if made is not None and made.stream is not stream and not made.done:
                self.violations.append("a copy goes into memory that is still in use")
            to()[:] = of()

        self.give(stream, run)

    def used_in(self, tensor: Tensor, stream: FakeStream) -> None:
        self.noted.add((tensor.data_ptr(), stream.name))

    def give(self, stream: FakeStream, work: Callable[[], None]) -> None:
        if self.at_once and stream is self.main:
            work()
        else:
            stream.queue.append(work)

    def fill(self, memory: Tensor, values: Tensor) -> None:
        """Work of the current stream: write to memory."""
        to = self._memory(memory)

        def run() -> None:
            to()[:] = values.numpy()

        self.give(self.now, run)

    def expect(self, memory: Tensor, values: Tensor) -> None:
        """Work of the current stream: read memory."""
        stream, storage = self.now, weakref.ref(memory.untyped_storage())
        there = self._memory(memory)
        home, place = self.born[memory.untyped_storage()].stream, memory.data_ptr()

        def run() -> None:
            free = storage() is None and home is not stream
            if free and (place, stream.name) not in self.noted:
                self.violations.append(f"stream {stream.name} reads memory that is free")
            if not np.array_equal(there(), values.numpy()):
                self.violations.append(f"stream {stream.name} reads other bytes")

        self.give(stream, run)

    def switch(self) -> None:
        """The step goes on in another stream, which waits for nothing."""
        self.now = self.side if self.now is self.main else self.main

    def run_some(self) -> None:
        """Run a random amount of work."""
        for _ in range(self.random.choice([0, 0, 1, 3, 10])):
            self.random.choice(self.all).step()

    def run_until(self, event: FakeEvent) -> None:
        """Run work in a random order until an event is done."""
        while not event.done:
            if not any(one.step() for one in self.random.sample(self.all, len(self.all))):
                raise AssertionError("an event is waited for that never comes")

    def run_all(self) -> None:
        """Run all work, in a random order."""
        while any(one.step() for one in self.random.sample(self.all, len(self.all))):
            pass

    def _memory(self, tensor: Tensor) -> Callable[[], NDArray[np.uint8]]:
        """The memory of a tensor, which this does not keep."""
        array = self.arrays.get(tensor.data_ptr())
        if array is not None:
            return lambda: array
        storage, size = weakref.ref(tensor.untyped_storage()), len(tensor)

        def read() -> NDArray[np.uint8]:
            there = storage()
            if there is None:  # of the machine: it may be anyone's now
                return np.full(size, POISON, dtype=np.uint8)
            return torch.empty(0, dtype=torch.uint8).set_(there).numpy()

        return read
