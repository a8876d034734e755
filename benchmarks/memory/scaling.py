"""the trace of a batch that no machine here can hold."""

from __future__ import annotations

from dataclasses import replace

from lipt_cords.warmstart.memory import Op, Storage, Trace


def extrapolated(one: tuple[int, Trace], other: tuple[int, Trace], batch: int) -> Trace:
    """The step on another batch, as a line through two measured ones.

    Args:
        one: a batch size and its trace.
        other: a larger one, of the same net.
        batch: samples.

    Returns:
        The same operations and storages, with bytes and seconds on the line through those that were
        measured; a larger batch takes no operation less time than the larger one measured.

    Raises:
        ValueError: the traces are not of the same step, or the batches not in order.
    """
    (few, small), (many, large) = one, other
    if not 0 < few < many:
        raise ValueError(f"expected two batches, the smaller one first, received {few} and {many}")
    _check_alike(small, large)

    def line(at_few: float, at_many: float) -> float:
        return at_few + (at_many - at_few) * (batch - few) / (many - few)

    ops = tuple(
        replace(b, seconds=max(line(a.seconds, b.seconds), b.seconds if batch > many else 0.0))
        for a, b in zip(small.ops, large.ops, strict=True)
    )
    storages = tuple(
        replace(b, size=round(line(a.size, b.size)))
        for a, b in zip(small.storages, large.storages, strict=True)
    )
    return replace(
        large,
        ops=ops,
        storages=storages,
        resident=round(line(small.resident, large.resident)),
        given=round(line(small.given, large.given)),
        shapes=(),
    )


def _check_alike(one: Trace, other: Trace) -> None:
    """Complain unless operations and storages agree one to one."""
    if (one.forward, one.packs, one.events) != (other.forward, other.packs, other.events):
        raise ValueError("the two steps do not save and ask for the same: give one net's traces")
    if (len(one.ops), len(one.storages)) != (len(other.ops), len(other.storages)):
        raise ValueError(
            f"expected two traces of the same step, received {len(one.ops)} and {len(other.ops)} "
            f"operations, {len(one.storages)} and {len(other.storages)} storages"
        )
    for number, (op, twin) in enumerate(zip(one.ops, other.ops, strict=True)):
        if _of_op(op) != _of_op(twin):
            raise ValueError(f"operation {number} is {op.name} and {twin.name}, or reads another")
    for number, (storage, twin) in enumerate(zip(one.storages, other.storages, strict=True)):
        if _of_storage(storage) != _of_storage(twin):
            raise ValueError(f"storage {number} of {storage.block} lives at other times")


def _of_op(op: Op) -> Op:
    return replace(op, seconds=0.0, block="")


def _of_storage(storage: Storage) -> Storage:
    return replace(storage, size=0, block="")
