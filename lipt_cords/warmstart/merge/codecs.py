"""Codecs, by name: how workers' changes are sent when they are merged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from pydantic import field_validator
from torch import Tensor

from lipt_cords.base.options import StrictModel
from lipt_cords.base.registry import Registry, is_foreign
from lipt_cords.models.state import State, all_finite, copied_state, require_alike_state
from lipt_cords.warmstart.merge.fixed_point import FixedPointSum
from lipt_cords.warmstart.ranks.exchange import Exchange
from lipt_cords.warmstart.ranks.ranks import Ranks

T = TypeVar("T")


@dataclass(frozen=True)
class Member:
    """A worker in the soup, on the rank that holds it.

    Attributes:
        worker: its number.
        weight: how much it counts.
        state: returns its weights, on the CPU; they are read when it is called.
    """

    worker: int
    weight: float
    state: Callable[[], State]


class Wire:
    """Communication between the ranks in a merge, of integers alone: they add up exactly.

    Args:
        ranks: the processes.
        weights: of every worker in the soup, on all ranks, by its number.
        owners: the rank that holds each of them.
        largest: for every slice of the state an exponent: 2 to its power bounds all changes.
        parameters: names of the entries that are parameters; the others are buffers.
        residuals: what earlier merges did not send of this rank's workers (:meth:`residual`).
    """

    def __init__(
        self,
        ranks: Ranks,
        weights: Mapping[int, float],
        owners: Mapping[int, int],
        largest: Tensor,
        *,
        parameters: Collection[str] = (),
        residuals: Mapping[int, State] | None = None,
    ) -> None:
        self._ranks, self.largest = ranks, largest
        self.weights, self.owners = dict(weights), dict(owners)
        self.parameters = frozenset(parameters)
        self.terms, self.heaviest = len(weights), max(weights.values())
        self.wide = self.heaviest > min(weights.values())
        """Sums travel in 64 bits, since workers that differ in weight need more than 32."""
        self.merged, self.weight = 0, 0.0
        """After an exchange: the number of workers in it, and their weight; fewer if a rank was
        lost."""
        self.kept: dict[int, State] = {}
        """Residuals that the codec keeps for the next merge, of this rank's workers."""
        self.notes: list[str] = []
        """For the report; each is shown once."""
        self._residuals = residuals or {}

    def exchange(self, work: Callable[[Exchange], T], what: str) -> T:
        """Exchange integers with the other ranks; see :class:`Exchange`.

        Args:
            work: calls the collectives, the same ones on every rank. It is called again without
                ranks that are lost in it, so it changes nothing but what it returns.
            what: is sent, in words, equal on all ranks.
        """

        def counted(exchange: Exchange) -> tuple[T, list[int]]:
            return work(exchange), self.workers_on(exchange.live)

        value, workers = self._ranks.exchange(counted, what)
        self.merged, self.weight = len(workers), float(sum(self.weights[one] for one in workers))
        return value

    def sum(self, flat: Tensor, dtype: torch.dtype) -> Tensor:
        """Add a vector of integers over all ranks; the same bits in any order.

        Args:
            flat: this rank's part, int64, on the CPU.
            dtype: int32 or int64, of the exchange; the sums must fit.
        """
        step = f"the sum of {flat.numel()} {dtype}"
        return self.exchange(lambda exchange: exchange.sum(flat, dtype), step)

    def workers_on(self, ranks: Collection[int]) -> list[int]:
        """The workers in the soup that some ranks hold, ascending."""
        return sorted(worker for worker in self.weights if self.owners[worker] in ranks)

    def residual(self, worker: int, like: State) -> State | None:
        """What earlier merges did not send of a worker's changes, in float32.

        None in the first merge, for a worker that was not in the last one, and where the net was
        cut to another shape since.
        """
        found = self._residuals.get(worker)
        if found is None or {n: v.shape for n, v in found.items()} != {
            name: value.shape for name, value in like.items()
        }:
            return None
        return found


CodecFunction = Callable[[State, Sequence[Member], Wire], State]
CODECS: Registry[CodecFunction] = Registry("codec", takes=("origin", "members", "wire"))


def register_codec(name: str) -> Callable[[CodecFunction], CodecFunction]:
    """Register a codec under a name.

    The function takes the weights that all workers started from, this rank's :class:`Member` list
    and the :class:`Wire`, and returns the average of all members on all ranks. Every rank must end
    with the same bits, whatever their number: exchange only by ``wire.sum`` and
    ``wire.exchange``, or by calling :func:`exact`. What it leaves in ``wire.kept`` for a worker,
    ``wire.residual`` returns in the next merge; it is stored in ``work_dir``.

    Args:
        name: must be free.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    return CODECS.register(name)


class CodecOptions(StrictModel):
    """How changes are sent."""

    codec: str = "exact"
    """How workers' changes are sent in a merge: ``exact`` in 32 bits, ``int8`` or ``int4`` in so
    many, with error feedback; or a registered codec of your own."""

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, value: str) -> str:
        return CODECS.entry(value).name


@register_codec("exact")
def exact(origin: State, members: Sequence[Member], wire: Wire) -> State:
    """Changes in fixed point in one all-reduce: 32 bits per weight, 64 for a weighted soup."""
    total = FixedPointSum(origin, wire.terms, wire.largest, wire.heaviest, wide=wire.wide)
    for member in members:
        total.add(member.state(), member.weight)
    summed = wire.sum(total.total, total.dtype)
    return total.mean(summed, wire.weight, wire.merged)


def merge_members(codec: str, origin: State, members: Sequence[Member], wire: Wire) -> State:
    """The average of a soup, by a codec's name.

    Raises:
        ValueError: the codec returns other names, shapes or dtypes than the origin's.
    """
    entry = CODECS.entry(codec)
    foreign = is_foreign(entry.module)
    average = entry.make(copied_state(origin) if foreign else origin, members, wire)
    require_alike_state(average, origin, f"codec {codec!r}")
    if foreign:
        average = copied_state(average)  # which may share memory with a worker's weights
        if not all_finite(average):
            raise ValueError(f"codec {codec!r} gives NaN or infinite weights: expected finite ones")
    return average
