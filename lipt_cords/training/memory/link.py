"""The link of a device to the host: on a CPU a simulated one, whose threads copy at its pace.

On a CPU there is no second memory, so the device is simulated: data "on the host" is a copy in the
same memory that is counted separately, and a transfer takes as long as on a link of the given
bandwidth. All else (waiting and freeing of memory) is as on a GPU.
"""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lipt_cords.base.devices import pins_memory
from lipt_cords.training.memory.stream_link import StreamLink, Streams, measured_bandwidth
from lipt_cords.training.memory.transfer import Arrival, Link, Transfer

DEFAULT_BANDWIDTH = 12e9
"""Bytes a second of the simulated link: that of a PCIe 3.0 x16 slot, as Capuchin had."""


class PacedLink:
    """A simulated link: two threads copy, no faster than the bandwidth.

    Args:
        bandwidth: bytes a second, each way.
    """

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth = bandwidth
        self.out, self.back = _Direction(bandwidth, "to-host"), _Direction(bandwidth, "from-host")
        self._spare: dict[int, list[Tensor]] = {}
        self._lent, self._waiting, self._most = 0, 0, 0
        self._lock = threading.RLock()  # reentrant: finalisers may return buffers

    def send(self, whole: Tensor) -> Transfer:
        """Start to copy all bytes of a storage to the host, then free it."""
        return _PacedTransfer(self, whole)

    def buffer(self, size: int) -> Tensor:
        """A host buffer; its memory is reused after ``spare``."""
        with self._lock:
            self._lent += size
            self._most = max(self._most, self._lent)
            if self._spare.get(size):
                self._waiting -= size
                return self._spare[size].pop()
            self._make_room()
        return torch.empty(size, dtype=torch.uint8)

    def spare(self, buffer: Tensor) -> None:
        """Return a host buffer."""
        with self._lock:
            self._lent -= buffer.numel()
            self._waiting += buffer.numel()
            self._spare.setdefault(buffer.numel(), []).append(buffer)
            self._make_room()

    def _make_room(self) -> None:
        """Keep no more bytes than were in use at once; drop sizes that were unused for longest."""
        for size in list(self._spare):
            while self._lent + self._waiting > self._most and self._spare[size]:
                self._spare[size].pop()
                self._waiting -= size
            if not self._spare[size]:
                del self._spare[size]


class _Direction:
    """One direction: transfers in the order of their requests."""

    def __init__(self, bandwidth: float, name: str) -> None:
        self._bandwidth, self._name, self._free = bandwidth, name, 0.0
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, work: Any) -> Future[None]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        return self._pool.submit(work)

    def pace(self, started: float, size: int) -> None:
        """Wait until a transfer that started then would be over."""
        self._free = max(self._free, started) + size / self._bandwidth
        rest = self._free - time.perf_counter()
        if rest > 1e-4:  # shorter sleeps take longer than requested; the next transfer corrects it
            time.sleep(rest)


class _PacedTransfer:
    def __init__(self, link: PacedLink, whole: Tensor) -> None:
        self._link, self._size, self.arrival = link, whole.numel(), Arrival()
        self._here: Tensor | None = whole
        self._host: Tensor | None = None
        self._wanted = False
        self._coming: Future[None] | None = None
        self._lock = threading.Lock()
        self._left = link.out.submit(self._leave)

    def _leave(self) -> None:
        started = time.perf_counter()
        with self._lock:
            here = None if self._wanted else self._here
        if here is None:
            return
        # Allocated in this thread, where memory is not counted: it is not the device's.
        host = self._link.buffer(self._size)
        weakref.finalize(self, self._link.spare, host).atexit = False
        host.copy_(here)
        del here
        self._link.out.pace(started, self._size)
        with self._lock:
            self._host = host
            if not self._wanted:
                self._here = None

    def fetch(self) -> None:
        with self._lock:
            if self._wanted:
                return
            self._wanted = True
            if self._here is not None:  # not yet sent: it stays
                return
            # Allocated in the step's own thread, where it is counted.
            self._here = torch.empty(self._size, dtype=torch.uint8)
        self._coming = self._link.back.submit(self._return)

    def stay(self) -> None:
        with self._lock:
            self._wanted = True

    def _return(self) -> None:
        started = time.perf_counter()
        if self._here is not None and self._host is not None:
            self._here.copy_(self._host)
        self._link.back.pace(started, self._size)

    def get(self) -> Tensor:
        self.fetch()
        if self._coming is not None:
            started = time.perf_counter()
            waits = not self._coming.done()
            self._coming.result()
            self._coming = None
            self.arrival.seconds = time.perf_counter() - started if waits else 0.0
        if self._here is None:
            raise RuntimeError("an activation was lost on its way to the host")
        return self._here

    def settle(self) -> None:
        self._left.result()


def build_link(device: torch.device, bandwidth: float | None) -> Link:
    """The link of a device; on a CPU a simulated one.

    Raises:
        ValueError: a device without one.
    """
    if device.type == "cpu":
        return PacedLink(bandwidth or DEFAULT_BANDWIDTH)
    if pins_memory(device):
        return StreamLink(Streams(device), bandwidth or measured_bandwidth(device))
    raise ValueError(
        "a memory budget needs a CPU, or an accelerator whose copies run beside its computation "
        f"(CUDA, XPU); received a model on {device}: leave the budget out there"
    )
