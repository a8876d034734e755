"""The handles of a step, by the memory that they replace: who is asked before it is written to.

Every write of a step goes through here first, whatever the step was expected to do. What was
computed from the memory is computed now, from its content before the write; and the memory itself
is kept, so that a copy made before the write is never used.
"""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

from torch import Tensor

from lipt_cords.training.memory.handles import Handle, Recomputed
from lipt_cords.training.memory.storages import ByStorage, numbered

T = TypeVar("T")


class Holdings:
    """The handles of one step that something may still need."""

    def __init__(self) -> None:
        self._handles: ByStorage[list[weakref.ref[Handle]]] = ByStorage()
        self._readers: ByStorage[list[weakref.ref[Recomputed]]] = ByStorage()
        self._all: weakref.WeakSet[Handle] = weakref.WeakSet()

    def add(self, storage: Any, handle: Handle) -> None:
        """Note a handle of a storage: of the saved one, or of the memory that it gave instead."""
        known = self._handles.get(storage)
        if known is None:
            self._handles.set(storage, [weakref.ref(handle)])
        elif all(one() is not handle for one in known):
            known.append(weakref.ref(handle))
        self._all.add(handle)

    def add_reader(self, storage: Any, reader: Recomputed) -> None:
        """Note that a handle is recomputed from a storage without one: a weight, an input."""
        known = self._readers.get(storage)
        if known is None:
            self._readers.set(storage, [weakref.ref(reader)])
        else:
            known.append(weakref.ref(reader))

    def find(self, storage: Any) -> Handle | None:
        """A handle of a storage; None if nothing needs one."""
        return next((one for one in _alive(self._handles.get(storage))), None)

    def before_write(self, tensor: Tensor) -> bool:
        """Prepare for a write to a tensor.

        Returns:
            Whether anything depended on its memory.
        """
        if not numbered(tensor):
            return False
        storage = tensor.untyped_storage()
        handles = _alive(self._handles.get(storage))
        readers = _alive(self._readers.get(storage))
        readers += [reader for handle in handles for reader in handle.readers()]
        waiting = [reader for reader in readers if not reader.held]
        for reader in waiting:
            reader.hold()
        for handle in handles:
            handle.hold()
        return bool(waiting or handles)

    def close(self) -> None:
        """Prepare for the writes after the step, which are not seen."""
        for handle in list(self._all):
            handle.hold()

    def give_up(self) -> None:
        """Keep nothing after a step that ran out of memory, or was interrupted."""
        for handle in list(self._all):
            if isinstance(handle, Recomputed):
                handle.give_up()
            else:
                handle.hold()


def _alive(references: list[weakref.ref[T]] | None) -> list[T]:
    return [one for one in (reference() for reference in references or ()) if one is not None]
