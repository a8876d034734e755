"""What a run leaves behind: one record of accuracy and of every cost, ready for JSON.

A warm start is only cheap if all of it is counted, so passes and seconds are kept apart by what
they were spent on, and evaluation, which no method needs, is in none of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SKIPPED, FULL, SUBSET = "skipped", "full", "subset"


@dataclass
class Ledger:
    """Costs of a run so far. Passes are sample-passes: forward and backward of one sample."""

    warmup_passes: int = 0
    """All passes before the first subset: full-data epochs, or every worker's."""
    warmup_critical_passes: int = 0
    """Passes that follow one another: the common start and the slowest worker, or all."""
    warmup_seconds: float = 0.0
    """Seconds of the warm-up as it ran here."""
    warmup_critical_seconds: float = 0.0
    """Seconds of the warm-up had every worker had a machine of its own."""
    warmup_bytes: int = 0
    """Bytes that the warm-up's workers exchanged."""
    warmup_flops: float = 0.0
    """Floating-point operations of the warm-up, in all."""
    warmup_critical_flops: float = 0.0
    """Floating-point operations on the warm-up's critical path."""
    selection_seconds: float = 0.0
    """Seconds spent choosing subsets, gradients included."""
    gradient_seconds: float = 0.0
    """Of these, seconds spent reading gradients, where they can be told apart."""
    selection_passes: int = 0
    """Passes of trial trainings by which subsets were chosen."""
    selections: int = 0
    """How many subsets were chosen by the strategy."""
    training_passes: int = 0
    """Passes over subsets."""
    training_seconds: float = 0.0
    """Seconds of training on subsets, without selection."""
    evaluation_seconds: float = 0.0
    """Seconds of measuring accuracy; in no sum."""

    @property
    def passes(self) -> int:
        """All training passes."""
        return self.warmup_passes + self.selection_passes + self.training_passes

    @property
    def critical_passes(self) -> int:
        """Training passes on the critical path."""
        return self.warmup_critical_passes + self.selection_passes + self.training_passes

    @property
    def seconds(self) -> float:
        """Seconds of warm-up, selection and training as they ran here."""
        return self.warmup_seconds + self.selection_seconds + self.training_seconds

    @property
    def critical_seconds(self) -> float:
        """The same with the warm-up's workers side by side."""
        return self.warmup_critical_seconds + self.selection_seconds + self.training_seconds


@dataclass(frozen=True)
class CurvePoint:
    """Where a run stood after some epochs; costs are cumulative and include the warm-up."""

    epoch: int
    """Epochs done; 0 is the start, after a warm start if there is one."""
    phase: str
    """``full`` or ``subset``, the kind of the last epoch; ``start`` before the first."""
    passes: int
    critical_passes: int
    seconds: float
    critical_seconds: float
    learning_rate: float
    train_loss: float | None
    val_accuracy: float | None
    test_accuracy: float | None

    @classmethod
    def of(
        cls, ledger: Ledger, *, epoch: int, phase: str, learning_rate: float,
        train_loss: float | None, accuracy: Mapping[str, float],
    ) -> CurvePoint:  # fmt: skip
        """Read the costs off a ledger."""
        return cls(
            epoch=epoch,
            phase=phase,
            passes=ledger.passes,
            critical_passes=ledger.critical_passes,
            seconds=ledger.seconds,
            critical_seconds=ledger.critical_seconds,
            learning_rate=learning_rate,
            train_loss=train_loss,
            val_accuracy=accuracy.get("val"),
            test_accuracy=accuracy.get("test"),
        )
