"""The record of a run: accuracies and all costs, ready for JSON.

Passes and seconds are counted separately for each purpose, so that no cost of a warm start is
hidden. Evaluation, which no method needs, is in none of the sums.
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
    """Seconds of the warm-up, as measured."""
    warmup_critical_seconds: float = 0.0
    """Seconds of the warm-up with one machine per worker."""
    warmup_bytes: int = 0
    """Bytes that the warm-up's workers exchanged."""
    warmup_flops: float = 0.0
    """Floating-point operations of the warm-up, in total."""
    warmup_critical_flops: float = 0.0
    """Floating-point operations on the warm-up's critical path."""
    selection_seconds: float = 0.0
    """Seconds spent choosing subsets, gradients included."""
    gradient_seconds: float = 0.0
    """Of these, seconds spent reading gradients, where they are measured separately."""
    selection_passes: int = 0
    """Passes of trial trainings by which subsets were chosen."""
    selections: int = 0
    """How many subsets were chosen by the strategy."""
    training_passes: int = 0
    """Passes over subsets."""
    training_seconds: float = 0.0
    """Seconds of training on subsets, without selection."""
    evaluation_seconds: float = 0.0
    """Seconds of evaluation; in no sum."""

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
        """Seconds of warm-up, selection and training, as measured."""
        return self.warmup_seconds + self.selection_seconds + self.training_seconds

    @property
    def critical_seconds(self) -> float:
        """The same with one machine per worker of the warm-up."""
        return self.warmup_critical_seconds + self.selection_seconds + self.training_seconds


@dataclass(frozen=True)
class CurvePoint:
    """The state of a run after some epochs; costs are cumulative and include the warm-up."""

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
        """A point with the costs of a ledger."""
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
