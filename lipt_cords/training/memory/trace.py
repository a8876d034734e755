"""The memory trace of one training step, as plain numbers: operations, storages, accesses.

Time in a trace is the number of operations started: a storage that is made by operation ``born``
and freed before operation ``end`` is in memory while ``born <= operation < end``. Planning needs
only this, so plans can be made, tested and compared without a net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

KEEP, SWAP, RECOMPUTE = "keep", "swap", "recompute"


@dataclass(frozen=True)
class Op:
    """One operation of the step, as PyTorch's dispatcher sees it.

    Attributes:
        name: such as ``aten.convolution.default``.
        seconds: that it took.
        reads: storages of the step that it reads, each once; the given ones (weights, buffers,
            inputs) have negative numbers.
        writes: storages of the step that it makes or changes in place.
        repeatable: whether calling it again gives the same bits: it draws no random numbers, and
            the given storages that it reads or writes do not change.
        block: the module that called it, by name.
        copied: bytes of given storages that it moves, such as BatchNorm's statistics: calling it
            again gets copies of them.
    """

    name: str
    seconds: float
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    repeatable: bool = True
    block: str = ""
    copied: int = 0


@dataclass(frozen=True)
class Storage:
    """Memory of the step: of one tensor and all its views.

    Attributes:
        size: bytes.
        born: the operation that makes it.
        released: before which operation the forward pass has released it; it ends here if it is not
            saved for the backward pass.
        saved: when autograd first saved it for the backward pass, as a number of operations
            started; None if it never did.
        accesses: the operations before which the backward pass needs it, in order.
        done: before which operation the backward pass has released it.
        movable: whether it may be evicted: nothing writes to it after it is saved, and it is plain
            memory.
        block: the module that made it, by name.
    """

    size: int
    born: int
    released: int
    saved: int | None = None
    accesses: tuple[int, ...] = ()
    done: int = 0
    movable: bool = True
    block: str = ""

    @property
    def end(self) -> int:
        """Before which operation it ends in a plain step."""
        return self.released if self.saved is None else max(self.released, self.done)

    @property
    def candidate(self) -> bool:
        """Whether it is unused between the two passes, and can be evicted."""
        return bool(self.movable and self.accesses and self.accesses[0] > self.released)


@dataclass(frozen=True)
class Trace:
    """A measured step.

    Attributes:
        ops: all operations, in order.
        forward: how many of them ran before the first demand of the backward pass.
        storages: what the step made.
        resident: bytes before the step: weights, buffers, gradients, an optimizer's.
        given: bytes of its inputs, which are counted once and stay.
        packs: the storage of each tensor that autograd saved, in order; negative: a given one.
        shapes: of these tensors, with their types.
        events: each demand of the backward pass, in order: (operation, storage).
    """

    ops: tuple[Op, ...] = field(repr=False)
    forward: int
    storages: tuple[Storage, ...] = field(repr=False)
    resident: int = 0
    given: int = 0
    packs: tuple[int, ...] = field(default=(), repr=False)
    shapes: tuple[tuple[object, ...], ...] = field(default=(), repr=False)
    events: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    starts: NDArray[np.float64] = field(init=False, compare=False, repr=False)
    """Seconds at which each operation starts, and at which the last ends; shape (ops + 1,)."""
    writers: dict[int, tuple[int, ...]] = field(init=False, compare=False, repr=False)
    """The operations of the forward pass that make or change each storage."""

    def __post_init__(self) -> None:
        seconds = np.array([op.seconds for op in self.ops], dtype=np.float64)
        object.__setattr__(self, "starts", np.concatenate([[0.0], np.cumsum(seconds)]))
        writers: dict[int, list[int]] = {}
        for number, op in enumerate(self.ops[: self.forward]):
            for storage in op.writes:
                writers.setdefault(storage, []).append(number)
        object.__setattr__(self, "writers", {key: tuple(some) for key, some in writers.items()})

    @property
    def seconds(self) -> float:
        """Of all operations together."""
        return float(self.starts[-1])

    @property
    def base(self) -> int:
        """Bytes that are always in memory."""
        return self.resident + self.given

    @property
    def activations(self) -> int:
        """Bytes that autograd saves, each storage once, without given ones."""
        return sum(storage.size for storage in self.storages if storage.saved is not None)

    def live(self, ends: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Bytes in memory during every operation of a plain step, ``base`` included.

        Args:
            ends: ends of the storages, if not those of a plain step.
        """
        births = np.array([storage.born for storage in self.storages], dtype=np.int64)
        sizes = np.array([storage.size for storage in self.storages], dtype=np.int64)
        until = np.array(
            [storage.end for storage in self.storages] if ends is None else ends, dtype=np.int64
        )
        change = np.zeros(len(self.ops) + 1, dtype=np.int64)
        np.add.at(change, np.minimum(births, len(self.ops)), sizes)
        np.add.at(change, np.clip(until, births, len(self.ops)), -sizes)
        return np.asarray(self.base + np.cumsum(change[:-1]))

    @property
    def peak(self) -> int:
        """The peak bytes of a plain step."""
        live = self.live()
        return int(live.max()) if len(live) else self.base


def lineage(
    trace: Trace, storage: int, available: set[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """How a storage is recomputed from available ones.

    Args:
        trace: the step.
        storage: to recompute, as the forward pass left it.
        available: storages that are in memory when needed, as the forward pass left them.

    Returns:
        The operations to call, in order, and the available storages that they read; None if it
        cannot be: an operation is not repeatable, or an input was changed afterwards.
    """
    ops, sources, seen, stack = set[int](), set[int](), {storage}, [storage]
    while stack:
        one = stack.pop()
        writers = trace.writers.get(one, ())
        if not writers or writers[0] != trace.storages[one].born:
            return None
        for number in writers:
            op = trace.ops[number]
            changes_another = any(
                other != one and trace.storages[other].born < number for other in op.writes
            )
            if not op.repeatable or changes_another:
                return None
            ops.add(number)
            for read in op.reads:
                if read < 0 or read == one:
                    continue
                if trace.writers[read][-1] > number:
                    return None
                if read in available:
                    sources.add(read)
                elif read not in seen:
                    seen.add(read)
                    stack.append(read)
    return tuple(sorted(ops)), tuple(sorted(sources))
