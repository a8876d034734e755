"""An accelerator's link to the host: page-locked buffers, one stream of copies in each direction.

Streams run beside each other and beside the program, so every order that matters is said here:

- a copy to the host begins after the work that made the storage, and a copy back after the copy to
  the host, and after the work that used the memory into which it goes;
- the step's stream waits for a copy back before it reads it;
- memory at either end of a copy is held until the copy is over, whoever else lets go of it, also
  when the link itself is freed.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor

from lipt_cords.base.devices import (
    current_stream,
    in_stream,
    new_event,
    new_stream,
    synchronize,
)
from lipt_cords.training.memory.transfer import Arrival


class Streams:
    """What a link needs of a device: memory, streams, events, copies.

    Args:
        device: an accelerator with streams.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def here(self, size: int) -> Tensor:
        """Memory of the device, shape (size,), uint8; work that the current stream was given before
        may still use it."""
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def host(self, size: int) -> Tensor:
        """Page-locked memory of the host, shape (size,), uint8."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def new(self) -> Any:
        """A stream."""
        return new_stream(self.device)

    def current(self) -> Any:
        """The stream of the step."""
        return current_stream(self.device)

    def record(self, stream: Any, *, timed: bool = False) -> Any:
        """An event: that a stream has finished what it was given so far.

        It has ``query``, ``synchronize`` and, if timed, ``elapsed_time``.
        """
        event = new_event(self.device, timed=timed)
        event.record(stream)
        return event

    def wait(self, stream: Any, event: Any) -> None:
        """What a stream is given from now on begins after an event."""
        stream.wait_event(event)

    def copy(self, target: Tensor, source: Tensor, stream: Any) -> None:
        """Give a stream a copy between the device and page-locked memory."""
        with in_stream(self.device, stream):
            target.copy_(source, non_blocking=True)

    def used_in(self, tensor: Tensor, stream: Any) -> None:
        """Memory of one stream is used in another: it is not reused before that work is over."""
        tensor.record_stream(stream)


class StreamLink:
    """The link of an accelerator.

    Args:
        streams: of the device.
        bandwidth: bytes a second, each way.
    """

    def __init__(self, streams: Streams, bandwidth: float) -> None:
        self.streams, self.bandwidth = streams, bandwidth
        self.out, self.back = streams.new(), streams.new()
        self._leaving: deque[tuple[Any, tuple[Tensor, ...]]] = deque()
        self._coming: deque[tuple[Any, tuple[Tensor, ...]]] = deque()
        weakref.finalize(self, _finish, self._leaving, self._coming).atexit = False

    def send(self, whole: Tensor) -> _StreamTransfer:
        """Start to copy all bytes of a storage to the host, then free it."""
        self.free_finished()
        return _StreamTransfer(self, whole)

    def copy_out(self, host: Tensor, whole: Tensor) -> Any:
        """Copy to the host, after the work of the step so far; returns the event of its end."""
        streams = self.streams
        streams.wait(self.out, streams.record(streams.current()))
        streams.copy(host, whole, self.out)
        left = streams.record(self.out)
        self._leaving.append((left, (host, whole)))
        return left

    def copy_back(self, host: Tensor, here: Tensor, left: Any) -> Any:
        """Copy to the device, after ``left``; returns the event of its end."""
        streams = self.streams
        streams.wait(self.back, streams.record(streams.current()))
        streams.wait(self.back, left)
        streams.copy(here, host, self.back)
        came = streams.record(self.back, timed=True)
        self._coming.append((came, (host, here)))
        return came

    def free_finished(self) -> None:
        """Let go of the memory of copies that are over; those of one direction end in order."""
        for underway in (self._leaving, self._coming):
            while underway and underway[0][0].query():
                underway.popleft()


def _finish(*directions: deque[tuple[Any, tuple[Tensor, ...]]]) -> None:
    """Hold the memory of copies until they are over, though their link is gone."""
    for underway in directions:
        while underway:
            underway[0][0].synchronize()
            underway.popleft()


class _StreamTransfer:
    def __init__(self, link: StreamLink, whole: Tensor) -> None:
        self._link, self.arrival, self._size = link, Arrival(), whole.numel()
        self._host = link.streams.host(self._size)
        self._left = link.copy_out(self._host, whole)
        self._here: Tensor | None = None
        self._came: Any = None
        self._home: Any = None
        self._got = False

    def fetch(self) -> None:
        if self._here is not None:
            return
        self._link.free_finished()
        self._home = self._link.streams.current()
        self._here = self._link.streams.here(self._size)
        self._came = self._link.copy_back(self._host, self._here, self._left)

    def get(self) -> Tensor:
        self.fetch()
        if self._here is None:
            raise RuntimeError("an activation was lost on its way to the host")
        streams = self._link.streams
        current = streams.current()
        if not self._got:
            self._got = True
            self.arrival.between(streams.record(current, timed=True), self._came)
        streams.wait(current, self._came)  # at every use: another stream has not waited yet
        if current != self._home:
            streams.used_in(self._here, current)
        return self._here

    def stay(self) -> None:
        pass  # its copy is underway, and holds what it reads

    def settle(self) -> None:
        self._left.synchronize()
        self._link.free_finished()


def measured_bandwidth(device: torch.device, size: int = 2**26) -> float:
    """Bytes a second between an accelerator and page-locked memory, in the slower direction.

    Args:
        device: the accelerator.
        size: bytes of a trial copy.
    """
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(size, dtype=torch.uint8, device=device)
    rates = []
    for target, source in ((host, there), (there, host)):
        best = 0.0
        for _ in range(4):
            synchronize(device)
            started = time.perf_counter()
            target.copy_(source, non_blocking=True)
            synchronize(device)
            best = max(best, size / (time.perf_counter() - started))
        rates.append(best)
    return min(rates)
