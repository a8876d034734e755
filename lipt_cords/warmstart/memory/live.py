"""Bytes in memory, counted storage by storage while they live: the measure of a plan."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipt_cords.warmstart.memory.saved import numbered


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations inside make, each from its birth to its end.

    What threads of copies allocate is not seen: on a simulated device that is the host's. What was
    there before is not counted either.

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
        self.now, self.peak = 0, 0
        self._type = None if device is None else device.type
        self._known: dict[int, weakref.ref[Any]] = {}
        self._lock = threading.RLock()  # a finaliser may run while it is held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs)) if self._counted(leaf)
        }  # fmt: skip
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if self._counted(leaf):
                storage = leaf.untyped_storage()
                known = self._known.get(storage._cdata)
                if storage._cdata not in before and (known is None or known() is not storage):
                    self._count(storage)
        return result

    def _count(self, storage: Any) -> None:
        size = storage.nbytes()
        with self._lock:
            self._known[storage._cdata] = weakref.ref(storage)
            self.now += size
            self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size).atexit = False

    def _counted(self, leaf: Any) -> bool:
        if not isinstance(leaf, Tensor) or self._type not in (None, leaf.device.type):
            return False
        return type(leaf).__name__ != "FakeTensor" and numbered(leaf)

    def _gone(self, size: int) -> None:
        with self._lock:
            self.now -= size
