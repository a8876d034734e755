"""The measured step: every activation is swapped on demand, and all operations are recorded.

So this step fits where a plain one would not. It also records when the forward pass itself releases
a tensor; a plain step does not show this, because autograd holds the tensor.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lipt_cords.training.memory.handles import Packed, PackedHere, Swapped
from lipt_cords.training.memory.holdings import Holdings
from lipt_cords.training.memory.op_schemas import moved_statistics, written_tensors
from lipt_cords.training.memory.storages import (
    ByStorage,
    is_plain,
    numbered,
    shape_of,
    tensors_of,
    whole_storage,
)
from lipt_cords.training.memory.trace import Op, Storage, Trace
from lipt_cords.training.memory.transfer import Link


@dataclass
class Recording:
    """A trace, and the objects of the step that are not numbers."""

    trace: Trace
    functions: tuple[Any, ...]
    """The functions that were called in the forward pass."""
    arguments: tuple[tuple[int, ...], ...]
    """The storage of each tensor among its arguments, in order."""
    results: tuple[tuple[int, ...], ...]
    """The storage of each tensor that it returned, in order."""


@dataclass
class _RecordedStorage:
    """A storage during recording."""

    size: int
    born: int
    block: str
    movable: bool
    released: int | None = None
    saved: int | None = None
    accesses: list[int] = field(default_factory=list)
    done: int | None = None
    handle: weakref.ref[Swapped] | None = None


class _Clock:
    """The number of operations started. All that finalisers know of a step: a gradient may outlive
    its step, and must not keep it, its net and its link alive."""

    def __init__(self) -> None:
        self.now = 0

    def note_done(self, made: _RecordedStorage) -> None:
        """The backward pass has released a storage."""
        made.done = self.now

    def note_released(self, made: _RecordedStorage) -> None:
        """The forward pass has released a storage."""
        made.released = self.now


class Recorder:
    """Records one step.

    Args:
        link: to the host.
        resident: storages that exist before the step, by object; their bytes are known.
        resident_bytes: of all of them.
        block: returns the name of the running module.
        synchronize: waits for the device, so that each operation is timed alone.
    """

    def __init__(
        self,
        link: Link,
        resident: Collection[Any],
        resident_bytes: int,
        block: Callable[[], str],
        synchronize: Callable[[], None],
    ) -> None:
        self._link, self._resident_bytes = link, resident_bytes
        self._resident = {id(one): weakref.ref(one) for one in resident}
        self._block, self._synchronize = block, synchronize
        self._known: ByStorage[int] = ByStorage()
        self.holdings = Holdings()
        self._made: list[_RecordedStorage] = []
        self._ops: list[Op] = []
        self._clock = _Clock()
        self._functions: list[Any] = []
        self._arguments: list[tuple[int, ...]] = []
        self._results: list[tuple[int, ...]] = []
        self._given, self._given_bytes = 0, 0
        self._changed: dict[int, int] = {}
        self._own: dict[int, frozenset[int]] = {}
        self._packs: list[int] = []
        self._shapes: list[tuple[Any, ...]] = []
        self._events: list[tuple[int, int]] = []
        self._forward: int | None = None
        self.complete = True
        """Whether the step was one forward pass and one backward pass."""

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call an operation, and record it."""
        number = len(self._ops)
        tensors = tensors_of((args, kwargs))
        read = tuple(self._number(tensor, None) for tensor in tensors)
        writes = written_tensors(function, args, kwargs)
        for tensor in writes:
            self.holdings.before_write(tensor)
        written = tuple(self._number(tensor, None) for tensor in writes)
        self._ops.append(Op(str(function), 0.0))
        self._clock.now = len(self._ops)
        self._synchronize()
        started = time.perf_counter()
        result = function(*args, **kwargs)
        self._synchronize()
        seconds = time.perf_counter() - started
        made = tensors_of(result)
        results = tuple(self._number(tensor, number) for tensor in made)
        fresh = tuple(
            one for one in dict.fromkeys(results) if one >= 0 and self._made[one].born == number
        )
        moved = moved_statistics(function, args, kwargs)
        statistics = tuple(self._number(tensor, None) for tensor in moved)
        for one in (*written, *statistics):
            if one < 0:
                self._changed.setdefault(one, number)
        self._own[number] = frozenset(statistics)
        for one in written:
            if one >= 0 and self._made[one].saved is not None:
                self._made[one].movable = False  # versions detect wrong uses
        sound = all(is_plain(tensor) for tensor in (*tensors, *made))
        self._ops[number] = Op(
            name=str(function),
            seconds=seconds,
            reads=tuple(dict.fromkeys(read)),
            writes=tuple(dict.fromkeys((*fresh, *(one for one in written if one >= 0)))),
            repeatable=sound
            and torch.Tag.nondeterministic_seeded not in getattr(function, "tags", ())
            and not any(one < 0 for one in written),
            block=self._block(),
            copied=sum(tensor.nbytes for tensor in moved),
        )
        self._functions.append(function)
        self._arguments.append(read)
        self._results.append(results)
        return result

    def pack(self, tensor: Tensor) -> Packed | PackedHere:
        """Send a saved tensor's storage to the host."""
        if self._forward is not None:
            self.complete = False  # a second forward pass has no plan
            return PackedHere(-1, tensor)
        if not is_plain(tensor):
            self._packs.append(-1)
            self._shapes.append(())
            return PackedHere(-1, tensor)
        number = self._number(tensor, None)
        self._packs.append(number)
        self._shapes.append(shape_of(tensor))
        if number < 0:
            return PackedHere(number, tensor)
        made = self._made[number]
        handle = None if made.handle is None else made.handle()
        if made.saved is None:
            made.saved = len(self._ops)
        if not made.movable:
            return PackedHere(number, tensor)
        if handle is None:
            transfer = self._link.send(whole_storage(tensor))
            transfer.settle()
            handle = Swapped(tensor.untyped_storage(), transfer)
            self.holdings.add(tensor.untyped_storage(), handle)
            made.handle = weakref.ref(handle)
            weakref.finalize(handle, self._clock.note_done, made).atexit = False
        return Packed(number, handle, tensor)

    def unpack(self, packed: Packed | PackedHere) -> Tensor:
        """Return a saved tensor."""
        if self._forward is None:
            self._forward = len(self._ops)
        if packed.number >= 0:
            made = self._made[packed.number]
            made.accesses.append(len(self._ops))
            self._events.append((len(self._ops), packed.number))
        tensor = packed.tensor()
        if packed.number >= 0:
            self._known.set(tensor.untyped_storage(), packed.number)
        if isinstance(packed, Packed):
            self.holdings.add(tensor.untyped_storage(), packed.handle)
        return tensor

    def recording(self) -> Recording:
        """The recording; call it at the end of the step."""
        forward = len(self._ops) if self._forward is None else self._forward
        # Writes of an optimizer after the backward pass do not change what is recomputed.
        last = self._events[-1][0] if self._events else 0
        stale = {one for one, number in self._changed.items() if number < last}
        last_write = {one: number for number, op in enumerate(self._ops) for one in op.writes}
        ops = tuple(
            op if not (stale - self._own[number]).intersection(op.reads)
            and not (
                _only_allocates(op.name) and any(last_write[one] == number for one in op.writes)
            )
            else replace(op, repeatable=False)
            for number, op in enumerate(self._ops)
        )  # fmt: skip
        end = len(ops)
        storages = tuple(
            Storage(
                size=made.size,
                born=made.born,
                released=end if made.released is None else made.released,
                saved=made.saved,
                accesses=tuple(made.accesses),
                done=end if made.saved is not None and made.done is None else made.done or 0,
                movable=made.movable,
                block=made.block,
            )
            for made in self._made
        )
        trace = Trace(
            ops, forward, storages, self._resident_bytes, self._given_bytes,
            tuple(self._packs), tuple(self._shapes), tuple(self._events),
        )  # fmt: skip
        return Recording(
            trace, tuple(self._functions[:forward]), tuple(self._arguments[:forward]),
            tuple(self._results[:forward]),
        )  # fmt: skip

    def _number(self, tensor: Tensor, born: int | None) -> int:
        """The number of a tensor's storage; a new one is given, or made by operation ``born``."""
        if not numbered(tensor):
            return -1
        storage = tensor.untyped_storage()
        known = self._known.get(storage)
        if known is not None:
            return known
        there = self._resident.get(id(storage), lambda: None)() is storage
        if born is None or there:
            self._given += 1
            number = -1 - self._given
            if not there:
                self._given_bytes += storage.nbytes()
            self._known.set(storage, number)
            return number
        number = len(self._made)
        made = _RecordedStorage(storage.nbytes(), born, self._block(), True)
        self._made.append(made)
        weakref.finalize(storage, self._clock.note_released, made).atexit = False
        self._known.set(storage, number)
        return number


def _only_allocates(name: str) -> bool:
    """Whether an operation allocates memory without filling it."""
    return name.removeprefix("aten.").startswith(("empty", "new_empty", "resize"))
