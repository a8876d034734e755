"""The record of one run: what results.json holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lipt_cords.training.ledger import CurvePoint, Ledger


@dataclass
class RunRecord:
    """One run: what was asked, what came out, what it cost."""

    method: str
    seed: int
    config: dict[str, Any]
    status: str = "ok"
    """``ok`` or ``failed``; a failed run carries its error and no figures."""
    error: str | None = None
    test_accuracy: float | None = None
    """Accuracy on the test images after the last epoch: no best epoch is picked."""
    val_accuracy: float | None = None
    costs: Ledger = field(default_factory=Ledger)
    curve: list[CurvePoint] = field(default_factory=list)
    warm_start: dict[str, Any] | None = None
    """The warm start's own report, where there was one."""
    subsets: dict[str, Any] | None = None
    """How its subsets changed, what the last one held, and samples of it."""
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    """Most memory of the ``process`` in this run, and of the ``gpu`` if there is one."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know: an ignored key, a device that was not there."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types, with the sums of its costs."""
        ledger = asdict(self.costs)
        ledger.update(
            passes=self.costs.passes,
            critical_passes=self.costs.critical_passes,
            seconds=self.costs.seconds,
            critical_seconds=self.costs.critical_seconds,
        )
        return {**asdict(self), "costs": ledger}
