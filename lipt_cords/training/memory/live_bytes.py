"""Bytes in memory, counted for every storage from its birth to its end, to check plans."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lipt_cords.training.memory.storages import ByStorage, numbered, tensors_of


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations inside make, each from its birth to its end.

    Memory that copying threads allocate is not counted: on a simulated device it is the host's.
    Earlier memory is not counted either.

    Args:
        device: count only storages on devices of its type; None: all.

    >>> with LiveBytes() as live:
    ...     a = torch.ones(256)
    ...     b = a + 1
    ...     del a
    >>> live.now, live.peak
    (1024, 2048)
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = _Count()
        self._type = None if device is None else device.type
        self._known: ByStorage[bool] = ByStorage()

    @property
    def now(self) -> int:
        """Bytes in memory now."""
        return self._count.now

    @property
    def peak(self) -> int:
        """The most bytes so far."""
        return self._count.peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.around(lambda f, a, k: f(*a, **k), func, args, kwargs or {})

    def around(
        self, call: Callable[[Any, Any, Any], Any], func: Any, args: Any, kwargs: Any
    ) -> Any:
        """Call an operation by a given function, and count the storages that it makes."""
        given = [t for t in tensors_of((args, kwargs)) if self._counted(t)]
        before = {tensor.untyped_storage()._cdata for tensor in given}
        result = call(func, args, kwargs)
        for tensor in tensors_of(result):
            if self._counted(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in before and not self._known.get(storage):
                    self._known.set(storage, True)
                    size = storage.nbytes()
                    self._count.add(size)
                    # It knows the count alone: a gradient may live for long.
                    weakref.finalize(storage, self._count.add, -size).atexit = False
        return result

    def _counted(self, tensor: Tensor) -> bool:
        if self._type not in (None, tensor.device.type):
            return False
        return type(tensor).__name__ != "FakeTensor" and numbered(tensor)


class _Count:
    """Bytes, added from several threads."""

    def __init__(self) -> None:
        self.now, self.peak = 0, 0
        self._lock = threading.RLock()  # reentrant: a finaliser may run while it is held

    def add(self, size: int) -> None:
        with self._lock:
            self.now += size
            self.peak = max(self.peak, self.now)
