"""The report of a memory planner: the plan, and the costs of its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from lipt_cords.base.sizes import show_bytes
from lipt_cords.training.memory.plan import Plan
from lipt_cords.training.memory.trace import RECOMPUTE, SWAP


@dataclass
class MemoryReport:
    """The plan and the steps of a planner so far.

    Attributes:
        plan: of the last guided step of the largest kind; None before the first.
        steps: by how they ran: ``measured``, ``guided``, ``on_demand``.
        measured_peak: peak bytes of the first step under the plan, or None; feedback may change
            that of later steps.
        step_seconds: of that step.
        waited: seconds of it spent waiting for late transfers.
        recomputed: seconds of it spent on recomputation.
        moved: triggers that feedback moved forward so far.
        notes: warnings for the reader, such as steps that change.
    """

    plan: Plan | None = field(repr=False)
    steps: dict[str, int]
    measured_peak: int | None
    step_seconds: float
    waited: float
    recomputed: float
    moved: int
    notes: list[str]

    def summary(self) -> str:
        """A sentence for the user."""
        if self.plan is None:
            return (
                f"memory budget: not applied yet, {self.steps['measured']} steps were measured and "
                "none was planned (the first two of a kind are measured, with every activation on "
                "the host until it is asked for)"
            )
        counts, measured = self.plan.counts(), self.measured_peak
        return (
            f"memory budget of {show_bytes(self.plan.budget)}: planned peak "
            f"{show_bytes(self.plan.peak)}, measured "
            f"{'not yet' if measured is None else show_bytes(measured)} "
            f"(plain {show_bytes(self.plan.trace.peak)}); {counts[SWAP]} activations swapped, "
            f"{counts[RECOMPUTE]} recomputed; {self.steps['guided']} steps guided, "
            f"{self.steps['measured']} measured, {self.steps['on_demand']} on demand; the last one "
            f"of this size waited {1000 * self.waited:.1f} ms and recomputed for "
            f"{1000 * self.recomputed:.1f} ms of {1000 * self.step_seconds:.1f}"
        )

    __str__ = summary
