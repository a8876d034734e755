"""The sum of workers' changes in fixed point: the same bits in any order and on any ranks.

Floating-point sums depend on the order, and so on the number of ranks; if a merge differs in its
last bit, all later rounds differ. Integer sums do not: each worker's change is rounded once to a
common grid, and added exactly. The grid has as many bits as are sent, so no more is sent than for a
float32 sum. Every slice of a tensor along the first dimension has its own grid, because channels,
and even more the statistics of raw features, change on very different scales. With 16 workers a
step of the grid is at least 25 bits below the largest change of the slice, finer than float32 for a
weight of that size. Integer entries are added as they are and their mean is rounded once, whatever
their size.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lipt_cords.models.state import State

NO_CHANGE = -(2**15)
"""The exponent of a slice that did not change."""
SMALLEST_STEP = 2.0**-1000
"""A step, in float64, by which a weight can still be divided."""


class FixedPointSum:
    """Sums weighted changes from one origin as integers: all averages of states use it.

    Args:
        origin: the state that all workers started from; it gives names, shapes and dtypes.
        terms: how many workers there are at most, in all ranks together.
        largest: for every slice of the state, an exponent that bounds the change that any of them
            has (the maximum of their :func:`largest_changes`).
        weight: the largest weight that any has.
        wide: 61 bits, where nothing is sent or workers differ in weight; else as few as are
            enough, 30 for most states.
    """

    def __init__(
        self,
        origin: Mapping[str, Tensor],
        terms: int,
        largest: Tensor,
        weight: float = 1,
        *,
        wide: bool = False,
    ) -> None:
        self.origin = {name: value.cpu() for name, value in origin.items()}
        values = list(self.origin.values())
        bounds = torch.where(largest == NO_CHANGE, 0.0, torch.exp2(largest.double()))
        slices = torch.split(bounds, [_slices(value) for value in values])
        sums = [
            0.0 if value.is_floating_point() else float(most.sum()) * terms
            for value, most in zip(values, slices, strict=True)
        ]
        wide = (
            wide or max(sums, default=0) >= 2**31 or any(v.dtype == torch.float64 for v in values)
        )
        self.dtype = torch.int64 if wide else torch.int32
        # Rounding adds at most half a step to each term: one bit more than the terms need.
        bits = (61 if wide else 30) - (max(terms, 1) - 1).bit_length()
        self._steps = [
            (most * 2.0**-bits * weight)
            .clamp(min=SMALLEST_STEP)
            .view([-1] + [1] * (v.ndim - 1) if v.ndim else [])
            if v.is_floating_point() and v.numel()
            else torch.ones(())
            for v, most in zip(values, slices, strict=True)
        ]
        # Integers whose sum would not fit are added in two halves.
        self._halves = [2 if most >= 2**62 else 1 for most in sums]
        self._sizes = [v.numel() * n for v, n in zip(values, self._halves, strict=True)]
        self.total = torch.zeros(sum(self._sizes), dtype=torch.int64)

    def add(self, state: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add one worker's change from the origin, times a weight of at most the largest."""
        parts = self._split(self.total)
        for (name, origin), step, part in zip(self.origin.items(), self._steps, parts, strict=True):
            value = state[name].cpu()
            if origin.is_floating_point():
                part += (_change(value, origin) * (weight / step)).round().to(torch.int64)
            elif len(part) == 2:
                part += _halved(value) - _halved(origin)
            else:
                part += value.long() - origin.long()

    def clone(self) -> FixedPointSum:
        """An independent sum on the same grid with the same contents."""
        twin = copy.copy(self)
        twin.total = self.total.clone()
        return twin

    def mean(self, total: Tensor, weight: float, terms: int) -> State:
        """The origin plus the weighted mean change, in the origin's dtypes, on the CPU.

        Apart from rounding to the dtype, an entry is off by at most half a step of its grid, or by
        a whole step where it is returned as zero. It is exact where no worker changed it, and zero
        where all have zero and the origin is more than half a step.

        Args:
            total: the sum over all ranks.
            weight: the weights' sum.
            terms: how many were added; integer entries are averaged without weights.
        """
        state, parts = {}, self._split(total)
        for (name, origin), step, part in zip(self.origin.items(), self._steps, parts, strict=True):
            if origin.is_floating_point():
                moved = origin.double() + part[0].double() * (step / weight)
                # An entry that is zero in every worker stays zero, without half a step of rounding.
                rounding = step * (0.5001 * terms / weight) + origin.double().abs() * 2.0**-51
                moved[(part[0] != 0) & (moved.abs() <= rounding)] = 0
                # Also the sign of a zero stays where nothing changed it.
                moved = torch.where(part[0] == 0, origin.double(), moved)
            else:
                moved = origin.long() + _divided(part, terms)
            state[name] = moved.to(origin.dtype)
        return state

    def _split(self, total: Tensor) -> list[Tensor]:
        """Views of a sum, one for each entry, of shape (1 or 2 halves, *shape)."""
        shapes = [value.shape for value in self.origin.values()]
        pieces = zip(torch.split(total, self._sizes), self._halves, shapes, strict=True)
        return [piece.view(halves, *shape) for piece, halves, shape in pieces]


def largest_changes(state: Mapping[str, Tensor], origin: Mapping[str, Tensor]) -> Tensor:
    """The least e with 2^e no less than any change of a slice, for every slice, in order; int16.

    The grid depends only on this power of two, so no more is sent. A floating-point entry has a
    slice for each index of its first dimension (so each element of a vector is one, and a scalar),
    an entry of integers is one, an empty entry has none.
    """
    largest = [torch.zeros(0, dtype=torch.float64)]
    for name, at in origin.items():
        value, start = state[name].cpu(), at.cpu()
        if not value.numel():
            continue
        if start.is_floating_point():
            largest.append(_change(value, start).abs().reshape(_slices(start), -1).amax(1))
        else:
            moved = value.long() - start.long()
            beyond = bool(((moved < 0) != (value.long() < start.long())).any())  # of int64
            most = 2**64 if beyond else max(int(moved.max()), -int(moved.min()))
            largest.append(torch.tensor([most], dtype=torch.float64))
    mantissa, exponent = torch.frexp(torch.cat(largest))
    exponent = exponent - (mantissa == 0.5).int()
    return torch.where(mantissa == 0, NO_CHANGE, exponent).to(torch.int16)


def bounds_of(largest: Tensor, origin: Mapping[str, Tensor], names: Collection[str]) -> Tensor:
    """The exponents of some entries only, of those that :func:`largest_changes` gives for all."""
    parts = torch.split(largest, [_slices(value) for value in origin.values()])
    kept = [part for name, part in zip(origin, parts, strict=True) if name in names]
    return torch.cat(kept) if kept else largest[:0]


def _slices(value: Tensor) -> int:
    """The number of slices of an entry."""
    if not value.numel():
        return 0
    return len(value) if value.is_floating_point() and value.ndim else 1


def _change(value: Tensor, origin: Tensor) -> Tensor:
    return value.double() - origin.double()


def _halved(value: Tensor) -> Tensor:
    """The upper and the lower 32 bits of integers."""
    return torch.stack([value.long() >> 32, value.long() & 0xFFFFFFFF])


def _divided(sums: Tensor, terms: int) -> Tensor:
    """Sums of integers, whole or in two halves, over their number; halves are rounded to even."""
    if len(sums) == 2:
        whole = sums[0].div(terms, rounding_mode="floor")
        return (whole << 32) + _divided((((sums[0] - whole * terms) << 32) + sums[1])[None], terms)
    whole = sums[0].div(terms, rounding_mode="floor")
    twice = (sums[0] - whole * terms) * 2
    return whole + ((twice > terms) | ((twice == terms) & (whole % 2 == 1))).long()
