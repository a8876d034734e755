"""The sum of workers' changes in fixed point: the same bits in any order and on any ranks.

Floating-point sums depend on who adds first, and so on the number of ranks; and a merge that
differs in its last bit makes all later rounds differ. Integers do not: each worker's change is
rounded once to a grid that all agree on, and added exactly. The grid has as many bits as the wire
carries, so nothing is sent that a float32 sum would not send: with 16 workers at least 25 bits
below each tensor's largest change, finer than float32 holds a weight of that size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lipt_cords.warmstart.averaging import State

SMALLEST_STEP = 2.0**-1000
"""A step, in float64, by which a weight can still be divided."""


class ExactSum:
    """Sums weighted changes from one origin as integers.

    Args:
        origin: the state that all workers started from; it gives names, shapes and dtypes.
        terms: how many workers there are at most, in all ranks together.
        largest: for every entry of the state in its order, the largest absolute change that any
            of them has (:func:`largest_changes`).
        weight: the largest weight that any has.
    """

    def __init__(
        self, origin: Mapping[str, Tensor], terms: int, largest: Sequence[float], weight: float = 1
    ) -> None:
        self.origin = {name: value.cpu() for name, value in origin.items()}
        wide = any(
            value.dtype == torch.float64
            or (not value.is_floating_point() and most * terms >= 2**31)
            for most, value in zip(largest, self.origin.values(), strict=True)
        )
        self.dtype = torch.int64 if wide else torch.int32
        # Rounding adds at most half a step to each term: one bit more than the terms need.
        bits = (61 if wide else 30) - math.ceil(math.log2(max(terms, 1)))
        self._steps = [
            max(_power_of_two(most * weight) * 2.0**-bits, SMALLEST_STEP)
            if value.is_floating_point()
            else 1.0
            for most, value in zip(largest, self.origin.values(), strict=True)
        ]
        self.total = torch.zeros(sum(v.numel() for v in self.origin.values()), dtype=torch.int64)

    def add(self, state: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add one worker's change from the origin, times a weight of at most the largest."""
        offset = 0
        for (name, origin), step in zip(self.origin.items(), self._steps, strict=True):
            part = self.total[offset : offset + origin.numel()]
            if origin.is_floating_point():
                part += (change(state[name], origin) * (weight / step)).round().to(torch.int64)
            else:
                part += state[name].cpu().reshape(-1).long() - origin.reshape(-1).long()
            offset += origin.numel()

    def mean(self, total: Tensor, weight: float, terms: int) -> State:
        """The origin plus the weighted mean change, in the origin's dtypes, on the CPU.

        Apart from rounding to the dtype, an entry is off by at most half a step of the grid, or
        by a whole one where it comes back as zero. It is exact where no worker changed it, and
        zero where all have zero and the origin is more than half a step.

        Args:
            total: the sum over all ranks.
            weight: the weights' sum.
            terms: how many were added; integer entries are averaged without weights.
        """
        state, offset = {}, 0
        for (name, origin), step in zip(self.origin.items(), self._steps, strict=True):
            part = total[offset : offset + origin.numel()].view(origin.shape)
            if origin.is_floating_point():
                moved = origin.double() + part.double() * (step / weight)
                # What is zero in every worker comes back as zero, not as half a step of rounding.
                rounding = step * 0.5001 + origin.double().abs() * 2.0**-51
                moved[(part != 0) & (moved.abs() <= rounding)] = 0
                state[name] = moved.to(origin.dtype)
            else:
                moved = (part.double() / terms).round().long() + origin.long()
                state[name] = moved.to(origin.dtype)
            offset += origin.numel()
        return state


def change(value: Tensor, origin: Tensor) -> Tensor:
    """The difference of one entry from the origin, flat, in float64, on the CPU."""
    return value.cpu().reshape(-1).double() - origin.reshape(-1).double()


def largest_changes(state: Mapping[str, Tensor], origin: Mapping[str, Tensor]) -> list[float]:
    """Largest absolute change of every entry of a state, in the origin's order; 0 if empty."""
    return [
        float(change(state[name], value.cpu()).abs().amax()) if value.numel() else 0.0
        for name, value in origin.items()
    ]


def _power_of_two(value: float) -> float:
    """The smallest power of two that is not below a value; 1 for zero."""
    if value == 0:
        return 1.0
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))
