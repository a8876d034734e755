"""Memory by use: of a plain step at its peak, and of a planned step at every operation.

Both are computed from the same numbers as the peak, so they add up to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipt_cords.training.memory.plan import Plan
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP, Storage, Trace

BASE, TEMPORARY = "base", "temporary"
SHARES = (BASE, KEEP, SWAP, RECOMPUTE, TEMPORARY)
"""Uses of memory, in the order in which they are shown."""


@dataclass(frozen=True)
class PlainPeak:
    """The parts of the peak of a plain step, in bytes.

    Attributes:
        resident: memory before the step: weights, buffers, an optimizer's state.
        inputs: the batch.
        activations: saved for the backward pass, each storage once.
        gradients: of the weights, as far as they exist at the peak.
        temporary: all else.
    """

    resident: int
    inputs: int
    activations: int
    gradients: int
    temporary: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.resident + self.inputs + self.activations + self.gradients + self.temporary


def plain_peak(trace: Trace) -> PlainPeak:
    """Divide the peak of a plain step into its parts.

    Args:
        trace: the measured step.

    Returns:
        Its parts; their ``total`` is ``trace.peak``.
    """
    found = {"activations": 0, "gradients": 0, "temporary": 0}
    at = int(np.argmax(trace.live())) if trace.ops else 0
    for storage in trace.storages:
        if storage.born <= at < storage.end:
            found[_kind(trace, storage)] += storage.size
    return PlainPeak(resident=trace.resident, inputs=trace.given, **found)


def _kind(trace: Trace, storage: Storage) -> str:
    if storage.saved is not None:
        return "activations"
    # Made by the backward pass, and still in memory at its end: a gradient.
    lasts = storage.born >= trace.forward and storage.end >= len(trace.ops)
    return "gradients" if lasts else "temporary"


def bytes_by_share(plan: Plan) -> dict[str, NDArray[np.int64]]:
    """Bytes during every operation of a planned step, by decision.

    Args:
        plan: for a step of some operations.

    Returns:
        One array of shape (ops,) for each of ``SHARES``: ``base`` is always in memory, ``keep``,
        ``swap`` and ``recompute`` are activations by decision, ``temporary`` is what the backward
        pass does not need. They add up to ``plan.timeline.live``.
    """
    trace, timeline = plan.trace, plan.timeline
    count = len(trace.ops)
    changes = {share: np.zeros(count + 1, dtype=np.int64) for share in SHARES}

    def add(share: str, size: int, start: int, end: int) -> None:
        changes[share][min(start, count)] += size
        changes[share][min(max(start, end), count)] -= size

    for number, storage in enumerate(trace.storages):
        born, end = storage.born, int(timeline.ends[number])
        share = TEMPORARY if storage.saved is None else plan.decisions.get(number, KEEP)
        back, left = timeline.back.get(number), timeline.left.get(number)
        if back is None or left is None or left >= back:  # it is never out of memory
            add(share, storage.size, born, end)
        else:
            add(share, storage.size, born, left)
            add(share, storage.size, back, end)
    shares = {share: np.cumsum(change[:-1]) for share, change in changes.items()}
    shares[BASE] = shares[BASE] + trace.base
    return shares
