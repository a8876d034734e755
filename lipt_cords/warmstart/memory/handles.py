"""What stands in the autograd graph for a saved tensor, until the backward pass asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lipt_cords.warmstart.memory.link import Away
from lipt_cords.warmstart.memory.saved import Geometry, check_version


class Handle(Protocol):
    """One storage; once its last saved tensor is used up it goes, and its memory with it."""

    def get(self) -> Tensor:
        """All its bytes on the device, shape (bytes,)."""

    def prepare(self) -> None:
        """Start what takes time."""


class Kept:
    """A storage that stays where it is."""

    def __init__(self, whole: Tensor) -> None:
        self._whole = whole

    def get(self) -> Tensor:
        return self._whole

    def prepare(self) -> None:
        pass


class Swapped:
    """A storage that goes to the host and comes back."""

    def __init__(self, away: Away) -> None:
        self.away = away

    def get(self) -> Tensor:
        return self.away.get()

    def prepare(self) -> None:
        self.away.fetch()


class Remade:
    """A storage that is let go of and made again, once.

    Args:
        sources: handles of what it is made from.
        make: makes it.
        spent: told the seconds that it took.
    """

    def __init__(
        self,
        sources: Sequence[Handle],
        make: Callable[[], Tensor],
        spent: Callable[[float], None],
    ) -> None:
        self.sources, self._make, self._spent = tuple(sources), make, spent
        self._whole: Tensor | None = None

    def get(self) -> Tensor:
        # Not by recursion: a net's whole depth may have to be made again in a row.
        stack: list[Remade] = [self]
        while stack:
            one = stack[-1]
            if one._whole is None:
                missing = [s for s in one.sources if isinstance(s, Remade) and s._whole is None]
                if missing:
                    stack += missing
                    continue
                for source in one.sources:
                    source.get()  # what is waited for is not counted as recomputed
                started = time.perf_counter()
                one._whole = one._make()
                one._spent(time.perf_counter() - started)
            stack.pop()
        if self._whole is None:
            raise RuntimeError("an activation could not be made again")
        return self._whole

    def prepare(self) -> None:
        pass


class Packed:
    """A saved tensor: a view into a storage that a handle stands for.

    Args:
        number: of the storage in the step's trace; negative for a given one.
        handle: of the storage.
        geometry: of the view.
    """

    def __init__(self, number: int, handle: Handle, geometry: Geometry) -> None:
        self.number, self.handle, self.geometry = number, handle, geometry

    def tensor(self) -> Tensor:
        """The saved tensor."""
        with torch.no_grad():
            return self.geometry.on(self.handle.get())


class PackedHere:
    """A saved tensor that stays where it is.

    Args:
        number: of the storage in the step's trace; negative for a given one.
        tensor: detached, so that a result does not hold the operation that made it.
    """

    def __init__(self, number: int, tensor: Tensor) -> None:
        self.number = number
        self._tensor, self._version = tensor, tensor._version

    def tensor(self) -> Tensor:
        """The saved tensor.

        Raises:
            RuntimeError: it was written to meanwhile.
        """
        check_version(self._tensor, self._version)
        return self._tensor
