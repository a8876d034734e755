"""What a run logs while it goes: a line of JSON a point always, TensorBoard if asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from lipt_cords.base.errors import missing_extra
from lipt_cords.base.files import write_atomic
from lipt_cords.training.ledger import CurvePoint

METRICS, EVENTS = "metrics.jsonl", "tensorboard"


class Tracker:
    """Logs of one run, point by point.

    ``metrics.jsonl`` has one object a line: ``kind`` is ``round`` for the rounds of a warm start
    and ``point`` for those of the curve, whose costs are cumulative. A resumed run's log is that of
    an uninterrupted one. TensorBoard's events count epochs.

    Args:
        directory: of the run.
        tensorboard: write TensorBoard's events too, into ``tensorboard``.

    Raises:
        ImportError: TensorBoard is asked for and not installed.
    """

    def __init__(self, directory: Path, *, tensorboard: bool = False) -> None:
        self.path = directory / METRICS
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise missing_extra("tensorboard", "track", "to write its logs") from None
            # From step 0 on, a resumed run replaces what was logged before.
            self._writer = SummaryWriter(str(directory / EVENTS), purge_step=0)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def begin(self, warm_start: Mapping[str, Any] | None, curve: Sequence[CurvePoint]) -> None:
        """Write anew what came before: the warm start's rounds, and a resumed run's points."""
        rounds = (warm_start or {}).get("rounds") or []
        lines = [{"kind": "round", **one} for one in rounds]
        lines += [{"kind": "point", **asdict(point)} for point in curve]
        write_atomic(
            self.path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        )
        if self._writer is not None:
            for one in rounds:
                for name, value in (one.get("stability") or {}).items():
                    if value is not None:
                        self._writer.add_scalar(f"warm start/{name}", value, one["round"])
            for point in curve:
                self._events(point)

    def point(self, point: CurvePoint) -> None:
        """Log a point of the curve."""
        with self.path.open("a") as file:
            line = json.dumps({"kind": "point", **asdict(point)}, allow_nan=False)
            file.write(line + "\n")
        if self._writer is not None:
            self._events(point)

    def _events(self, point: CurvePoint) -> None:
        for name, value in (
            ("accuracy/validation", point.val_accuracy),
            ("accuracy/test", point.test_accuracy),
            ("loss/train", point.train_loss),
            ("rate", point.learning_rate),
            ("cost/passes", point.passes),
            ("cost/passes, critical path", point.critical_passes),
            ("cost/seconds", point.seconds),
        ):
            if value is not None:
                self._writer.add_scalar(name, value, point.epoch)
