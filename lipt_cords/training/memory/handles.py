"""Handles: in the autograd graph they replace a saved tensor until the backward pass needs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lipt_cords.training.memory.link import Transfer
from lipt_cords.training.memory.storages import Geometry, Version, check_version


class Handle(Protocol):
    """One storage; its memory is freed after the last use of its saved tensors."""

    def get(self) -> Tensor:
        """All its bytes on the device, shape (bytes,)."""

    def prepare(self) -> None:
        """Start a transfer, if one is needed."""


class Kept:
    """A storage that stays on the device."""

    def __init__(self, whole: Tensor) -> None:
        self._whole = whole

    def get(self) -> Tensor:
        return self._whole

    def prepare(self) -> None:
        pass


class Swapped:
    """A storage that is sent to the host and fetched back."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self._kept: Tensor | None = None

    def keep(self, whole: Tensor) -> None:
        """Use the storage on the device instead, because it was written to."""
        self._kept = whole

    def get(self) -> Tensor:
        return self.transfer.get() if self._kept is None else self._kept

    def prepare(self) -> None:
        if self._kept is None:
            self.transfer.fetch()


class Recomputed:
    """A storage that is freed and recomputed, once.

    Args:
        sources: handles of the storages from which it is computed.
        make: computes it.
        spent: called with the seconds of the recomputation.
    """

    def __init__(
        self,
        sources: Sequence[Handle],
        make: Callable[[], Tensor],
        spent: Callable[[float], None],
    ) -> None:
        self.sources, self._make, self._spent = tuple(sources), make, spent
        self._whole: Tensor | None = None

    @property
    def made(self) -> bool:
        """Whether it was recomputed."""
        return self._whole is not None

    def get(self) -> Tensor:
        # Without recursion: the chain of recomputations may be as deep as the net.
        stack: list[Recomputed] = [self]
        while stack:
            one = stack[-1]
            if one._whole is None:
                missing = [s for s in one.sources if isinstance(s, Recomputed) and s._whole is None]
                if missing:
                    stack += missing
                    continue
                for source in one.sources:
                    source.get()  # waiting does not count as recomputation
                started = time.perf_counter()
                one._whole = one._make()
                one._spent(time.perf_counter() - started)
            stack.pop()
        if self._whole is None:
            raise RuntimeError("an activation could not be recomputed")
        return self._whole

    def prepare(self) -> None:
        pass


class Packed:
    """A saved tensor: a view into the storage of a handle.

    Args:
        number: of the storage in the step's trace; negative for a given one.
        handle: of the storage.
        tensor: the view; its memory is not kept.
    """

    owner: object = None
    """The step that packed it."""

    def __init__(self, number: int, handle: Handle, tensor: Tensor) -> None:
        self.number, self.handle, self.geometry = number, handle, Geometry.of(tensor)
        self._version = Version(tensor)

    def tensor(self) -> Tensor:
        """The saved tensor.

        Raises:
            RuntimeError: it was written to in the meantime.
        """
        self._version.check(self.geometry)
        with torch.no_grad():
            return self.geometry.on(self.handle.get())


class PackedHere:
    """A saved tensor that stays on the device.

    Args:
        number: of the storage in the step's trace; negative for a given one.
        tensor: the saved tensor.
    """

    owner: object = None
    """What packed it: the step that it is of."""

    def __init__(self, number: int, tensor: Tensor) -> None:
        self.number = number
        self._tensor = tensor.detach()  # a result must not keep the operation that made it alive
        self._version = self._tensor._version

    def tensor(self) -> Tensor:
        """The saved tensor.

        Raises:
            RuntimeError: it was written to meanwhile.
        """
        check_version(self._tensor._version, self._version, self._tensor)
        return self._tensor
