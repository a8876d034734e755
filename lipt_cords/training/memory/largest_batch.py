"""The largest batch within a budget, plain and planned: doubled until too large, then bisected.

Batches are measured, not extrapolated: the memory of an operation need not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lipt_cords.base.sizes import show_bytes
from lipt_cords.training.memory.plan import Plan, Policy, plan_activations
from lipt_cords.training.memory.trace import Trace

NEAR = 20
"""The search ends when the largest that fits and the smallest that does not are a 20th apart."""

Measure = Callable[[int], Trace]


class TooLarge(ValueError):
    """Raised by ``measure`` for a batch that the machine cannot measure."""


@dataclass(frozen=True)
class LargestBatch:
    """The result of a search.

    Attributes:
        plain: samples of the largest batch whose plain step fits the budget; 0 if none does.
        planned: the same of a planned step.
        plan: for that batch, or None where none fits.
        traces: the measured steps by batch size.
        stopped: why a larger batch was not tried although the budget may hold it, or None.
    """

    plain: int
    planned: int
    plan: Plan | None
    traces: Mapping[int, Trace] = field(repr=False)
    stopped: str | None = None

    @property
    def ratio(self) -> float | None:
        """Planned over plain; None where no plain step fits."""
        return self.planned / self.plain if self.plain else None


def largest_batch(
    measure: Measure,
    budget: int,
    *,
    bandwidth: float = 12e9,
    policy: Policy = "both",
    start: int = 1,
    at_most: int = 4096,
    room: int | None = None,
) -> LargestBatch:
    """Find the largest batch whose step fits, with and without a plan.

    Sizes are doubled from ``start`` until one does not fit, then bisected until the one that fits
    and the one that does not are 5 % apart. It is assumed that a smaller batch fits if a larger one
    does.

    Args:
        measure: the trace of a step on a batch of that many samples; called once per size. It may
            raise :class:`TooLarge`.
        budget: bytes for all that a step has in memory.
        bandwidth: bytes a second of the link to the host, each way.
        policy: ``both``, or only ``swap`` or ``recompute``.
        start: samples to begin with, at least 1.
        at_most: most samples to try, at least ``start``.
        room: bytes that activations and everything else may take together while a step is measured;
            a batch that would take more, in proportion to smaller ones, is not tried. None: no
            limit.

    Raises:
        ValueError: sizes out of range, or a step that saves nothing.
    """
    if not 1 <= start <= at_most:
        raise ValueError(
            f"expected 1 <= start <= at_most, received a batch of {start} to start from and at "
            f"most {at_most}: start from a smaller batch, or raise at_most (--at-most)"
        )
    search = _Search(measure, start, at_most, room)
    plans: dict[int, Plan] = {}

    def plans_within(size: int, trace: Trace) -> bool:
        if size not in plans and (trace.base <= budget or not trace.activations):
            try:
                plans[size] = plan_activations(trace, budget, bandwidth=bandwidth, policy=policy)
            except ValueError:
                if not trace.activations or not bandwidth > 0:
                    raise
        return size in plans

    planned = search.run(plans_within)
    plain = search.run(lambda _, trace: trace.peak <= budget)
    return LargestBatch(plain, planned, plans.get(planned), search.traces, search.stopped)


class _Search:
    """Both searches share measurements, so the second costs little."""

    def __init__(self, measure: Measure, start: int, at_most: int, room: int | None) -> None:
        self._measure, self._start, self._at_most, self._room = measure, start, at_most, room
        self.traces: dict[int, Trace] = {}
        self._impossible: dict[int, str] = {}
        self.stopped: str | None = None

    def run(self, fits: Callable[[int, Trace], bool]) -> int:
        """The largest size that fits, to a 20th; 0 where none does."""

        def holds(size: int) -> bool:
            trace = self._trace(size)
            return trace is not None and fits(size, trace)

        low, high = 0, None
        for size in sorted({*self.traces, *self._impossible}):
            if not holds(size):
                high = size
                break
            low = size
        while high is None and low < self._at_most:
            size = min(self._at_most, 2 * low) if low else self._start
            if self._refused(size):
                break
            if holds(size):
                low = size
            else:
                high = size
        while high is not None and high - low > max(1, low // NEAR):
            middle = (low + high) // 2
            if holds(middle):
                low = middle
            else:
                high = middle
        if high in self._impossible:
            self.stopped = self._impossible[high]
        elif low == self._at_most:
            self.stopped = f"larger batches than {low} were not asked for (--at-most)"
        return low

    def _trace(self, size: int) -> Trace | None:
        """The trace of a size; None if it cannot be measured."""
        if size not in self.traces and size not in self._impossible:
            try:
                self.traces[size] = self._measure(size)
            except TooLarge as error:
                self._impossible[size] = str(error)
        return self.traces.get(size)

    def _refused(self, size: int) -> bool:
        """Whether measuring a size would need too much memory, estimated from smaller ones."""
        if self._room is None or not self.traces:
            return False
        known = max(self.traces)
        trace = self.traces[known]
        needed = trace.resident + (trace.activations + trace.given) * size // known
        if needed <= self._room:
            return False
        self.stopped = (
            f"a batch of {size} was not tried: measuring it would take about "
            f"{show_bytes(needed)} of the machine's memory, and {show_bytes(self._room)} are to be "
            f"had; give --at-most {known}, or a machine with more memory"
        )
        return True
