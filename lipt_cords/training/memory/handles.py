"""Handles: in the autograd graph they replace a saved tensor until the backward pass needs it.

A plain step reads the memory itself, with all that was written to it meanwhile. So does a handle,
as long as that memory exists, whoever keeps it alive. A copy from the host or a recomputation is
used only for memory that is gone, to which nothing can write any more.
"""

from __future__ import annotations

import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lipt_cords.training.memory.storages import Geometry, Version, all_bytes, check_version
from lipt_cords.training.memory.transfer import Transfer


class Handle(ABC):
    """One storage; its memory is freed after the last use of its saved tensors.

    Args:
        origin: the storage; it is not kept alive.
    """

    def __init__(self, origin: Any) -> None:
        self._origin: weakref.ref[Any] = weakref.ref(origin)
        self._whole: Tensor | None = None
        self._readers: list[weakref.ref[Recomputed]] = []

    @abstractmethod
    def get(self) -> Tensor:
        """All its bytes on the device, shape (bytes,)."""

    @abstractmethod
    def prepare(self) -> None:
        """Start a transfer, if one is needed."""

    @abstractmethod
    def hold(self) -> None:
        """Make it independent of the memory of others, which may be written to from now on."""

    @property
    def held(self) -> bool:
        """Whether its memory is kept."""
        return self._whole is not None

    def keep_origin(self) -> bool:
        """Keep the storage itself, if it still exists; returns whether the memory is kept."""
        if self._whole is None:
            origin = self._origin()
            if origin is not None:
                self._whole = all_bytes(origin)
        return self.held

    def read_by(self, reader: Recomputed) -> None:
        """Note what is computed from it."""
        self._readers.append(weakref.ref(reader))

    def readers(self) -> list[Recomputed]:
        """What is computed from it, as far as anything still needs that."""
        return [one for one in (reader() for reader in self._readers) if one is not None]


class Kept(Handle):
    """A storage that stays on the device.

    Args:
        origin: the storage.
    """

    def __init__(self, origin: Any) -> None:
        super().__init__(origin)
        self._kept = all_bytes(origin)

    @property
    def held(self) -> bool:
        return True

    def get(self) -> Tensor:
        return self._kept

    def prepare(self) -> None:
        pass

    def hold(self) -> None:
        pass


class Swapped(Handle):
    """A storage that is sent to the host and fetched back.

    Args:
        origin: the storage.
        transfer: of its bytes, started.
    """

    def __init__(self, origin: Any, transfer: Transfer) -> None:
        super().__init__(origin)
        self.transfer = transfer

    def get(self) -> Tensor:
        self.hold()
        return self.transfer.get() if self._whole is None else self._whole

    def prepare(self) -> None:
        self.hold()
        if self._whole is None:
            self.transfer.fetch()

    def hold(self) -> None:
        if not self.held and self.keep_origin():
            self.transfer.stay()


class Recomputed(Handle):
    """A storage that is freed and recomputed, once.

    Args:
        origin: the storage.
        sources: handles of the storages from which it is computed.
        make: computes it.
        spent: called with the seconds of the recomputation.
    """

    def __init__(
        self,
        origin: Any,
        sources: Sequence[Handle],
        make: Callable[[], Tensor],
        spent: Callable[[float], None],
    ) -> None:
        super().__init__(origin)
        self._sources, self._make, self._spent = tuple(sources), make, spent
        for source in self._sources:
            source.read_by(self)

    def get(self) -> Tensor:
        self.hold()
        if self._whole is None:
            raise RuntimeError("an activation could not be recomputed")
        return self._whole

    def prepare(self) -> None:
        pass

    def hold(self) -> None:
        # Without recursion: the chain of recomputations may be as deep as the net.
        stack: list[Recomputed] = [self]
        while stack:
            one = stack[-1]
            if not one.keep_origin():
                missing = [
                    source for source in one._sources
                    if isinstance(source, Recomputed) and not source.keep_origin()
                ]  # fmt: skip
                if missing:
                    stack += missing
                    continue
                for source in one._sources:
                    source.get()  # waiting does not count as recomputation
                started = time.perf_counter()
                one._whole = one._make()
                one._spent(time.perf_counter() - started)
            stack.pop()

    def give_up(self) -> None:
        """Never recompute it: its sources are not watched any more.

        A backward pass that needs it raises a RuntimeError.
        """
        if not self.held:
            self._make = _given_up


def _given_up() -> Tensor:
    raise RuntimeError(
        "the step that saved an activation was left by an error before its backward pass, and the "
        "activation was not kept: run the forward pass again"
    )


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
