"""Codecs, by name: how workers' changes are sent when they are merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import field_validator
from torch import Tensor

from lipt_cords.base.options import StrictModel
from lipt_cords.base.registry import Registry, is_foreign
from lipt_cords.models.state import State, all_finite, copied_state, require_alike_state
from lipt_cords.warmstart.merge.fixed_point import FixedPointSum
from lipt_cords.warmstart.ranks.ranks import Ranks


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
    """Communication between the ranks in a merge: exact sums of integers.

    Args:
        ranks: the processes.
        terms: workers in the soup, on all ranks.
        heaviest: the largest weight of any.
        largest: for every slice of the state an exponent: 2 to its power bounds all changes.
        mine: the members on this rank.
        wide: sums travel in 64 bits, since workers that differ in weight need more than 32.
    """

    def __init__(
        self,
        ranks: Ranks,
        terms: int,
        heaviest: float,
        largest: Tensor,
        mine: Sequence[Member],
        *,
        wide: bool = False,
    ) -> None:
        self._ranks, self.wide = ranks, wide
        self.terms, self.heaviest, self.largest = terms, heaviest, largest
        self._mine = len(mine), sum(member.weight for member in mine)
        self.merged, self.weight = 0, 0.0
        """After a sum: the number of workers in it, and their weight; fewer if a rank was lost."""

    def sum(self, flat: Tensor, dtype: torch.dtype) -> Tensor:
        """Add a vector of integers over all ranks; the same bits in any order.

        Args:
            flat: this rank's part, int64, on the CPU.
            dtype: int32 or int64, of the exchange; the sums must fit.
        """
        tail = torch.tensor(self._mine)  # same exchange: correct even if a rank is lost in it
        summed = self._ranks.sum_integers(torch.cat([flat, tail]), dtype)
        self.merged, self.weight = int(summed[-2]), float(summed[-1])
        return summed[:-2]


CodecFunction = Callable[[State, Sequence[Member], Wire], State]
CODECS: Registry[CodecFunction] = Registry("codec", takes=("origin", "members", "wire"))


def register_codec(name: str) -> Callable[[CodecFunction], CodecFunction]:
    """Register a codec under a name.

    The function takes the weights that all workers started from, this rank's :class:`Member` list
    and the :class:`Wire`, and returns the average of all members on all ranks. Every rank must end
    with the same bits, whatever their number: exchange only by ``wire.sum``, or by calling
    :func:`exact`.

    Args:
        name: must be free.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    return CODECS.register(name)


class CodecOptions(StrictModel):
    """How changes are sent."""

    codec: str = "exact"
    """How workers' changes are sent in a merge: ``exact``, or a registered codec of your own."""

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
