"""The report of a warm start: results and all costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lipt_cords.base.messages import travels
from lipt_cords.models.state import State


@travels
@dataclass(frozen=True)
class WorkerSummary:
    """One worker in the report, over all rounds.

    Attributes:
        worker: its number.
        rank: the process that trained it.
        samples: size of its shard.
        steps: optimizer steps.
        passes: samples trained on, repeats counted.
        loss: mean training loss of its last local epoch; None if it is not finite.
        accuracy: on held-out data, in [0, 1], at the end; None without any.
        density: share of the prunable weights that it kept.
        seconds: of its training; with ``together``, of the group that it was trained in.
        work: operations of its training over those of the whole net; below 1 with ``subnetwork``.
        kept: whether it is in the last merge.
        reason: why not.
        classes_missing: classes of which its shard has no sample.
        stages: with ``subnetwork``, as in :class:`WarmStartReport`.
    """

    worker: int
    rank: int
    samples: int
    steps: int
    passes: int
    loss: float | None
    accuracy: float | None
    density: float
    seconds: float
    kept: bool = True
    reason: str | None = None
    classes_missing: list[int] = field(default_factory=list)
    work: float = 1.0
    stages: list[dict[str, float]] = field(default_factory=list)


@travels
@dataclass(frozen=True)
class RoundReport:
    """One merge in the report.

    Attributes:
        round: its number, from 0.
        workers: workers in the merge.
        passes: samples that all workers trained on in this round.
        critical_path_passes: samples on the critical path up to here, the common start included.
        weight_bytes: bytes of weights that the ranks exchanged in this round.
        seconds: of the slowest worker's training.
        stability: signals from the workers on held-out data, by the names of
            :class:`lipt_cords.warmstart.watch.stability.Stability`; None without held-out data.
    """

    round: int
    workers: int
    passes: int
    critical_path_passes: int
    weight_bytes: int
    seconds: float
    stability: dict[str, float | None] | None = None
    work: float = 0.0
    critical_path_work: float = 0.0


@travels
@dataclass(frozen=True)
class WarmStartReport:
    """The costs and the results of a warm start.

    Attributes:
        passes: samples trained on (forward and backward) in all, repeats counted.
        critical_path_passes: those of the common start and, in each round, of the worker with the
            most passes: what remains with one machine per worker.
        evaluation_passes: samples run forward for held-out accuracy.
        refresh_passes: samples run forward to recompute BatchNorm statistics.
        flops: of the training passes, counted on one dense step and scaled; sparsity saves none.
        critical_path_flops: those on the critical path.
        forward_flops: of the evaluation and refresh passes.
        bytes_communicated: what the ranks exchange in total, with a ring all-reduce.
        seconds: wall time by phase: ``prepare`` (checks, reading the data), ``common``,
            ``workers`` (on rank 0, with the wait for the others), ``evaluation`` of workers on
            rank 0, ``soup``, ``refresh`` (with the evaluation of the merged model), ``total``, and
            ``critical_path`` = common + slowest worker + soup + refresh.
        workers: one summary each.
        merged_accuracy: of the result on held-out data, in [0, 1]; None without any.
        mean_worker_accuracy: over the workers with finite weights.
        accuracy_before_refresh: of the soup with averaged BatchNorm statistics.
        accuracy_after_refresh: with recomputed ones; None if not recomputed.
        refresh_kept: whether the result has the recomputed statistics.
        ranks: processes that took part.
        weight_bytes: of ``bytes_communicated``, those of weights; the rest are small messages.
        rounds: one entry per merge.
        stopped_early: whether ``stop_when`` ended the rounds.
        stages: with ``subnetwork``, for every stage over all workers: the share of the steps after
            which it ``end``s, ``length`` of its paths, ``steps``, ``passes``, and their operations
            in passes of the given net, ``planned`` by the schedule and ``counted`` of the drawn
            paths.
        ticket: with ``early_bird``: ``ratio``, after how many ``steps`` or ``rounds`` it was drawn,
            whether the masks had ``settled``, their number (``masks``) and pairwise ``distances``,
            the ``share_kept`` of all channels, kept and all channels by ``layers``, the ``rescued``
            layers, and ``work``: operations of the smaller net over those of the given one.
        notes: warnings and events for the reader.
    """

    passes: int
    critical_path_passes: int
    evaluation_passes: int
    refresh_passes: int
    flops: int
    critical_path_flops: int
    forward_flops: int
    bytes_communicated: int
    seconds: dict[str, float]
    workers: list[WorkerSummary]
    merged_accuracy: float | None
    mean_worker_accuracy: float | None
    accuracy_before_refresh: float | None
    accuracy_after_refresh: float | None
    refresh_kept: bool
    ranks: int
    weight_bytes: int = 0
    rounds: list[RoundReport] = field(default_factory=list)
    stopped_early: bool = False
    stages: list[dict[str, float]] = field(default_factory=list)
    ticket: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """The report in one line."""
        kept = sum(worker.kept for worker in self.workers)
        text = (
            f"{kept} of {len(self.workers)} workers merged"
            f"{_often(len(self.rounds))}; {self.critical_path_passes:,} "
            f"sample-passes on the critical path, {self.passes:,} in all"
        )
        if self.merged_accuracy is not None and self.mean_worker_accuracy is not None:
            text += (
                f"; held-out accuracy {self.merged_accuracy:.1%}, "
                f"mean worker {self.mean_worker_accuracy:.1%}"
            )
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WarmStartReport:
        """Rebuild a report from :meth:`to_dict`.

        Raises:
            ValueError: fields are missing or unknown.
        """
        _require_fields(cls, values)
        parts: dict[str, list[Any]] = {}
        for name, kind in (("workers", WorkerSummary), ("rounds", RoundReport)):
            if not isinstance(values[name], list):
                raise ValueError(f"not a WarmStartReport: expected a list of {name}")
            for part in values[name]:
                _require_fields(kind, part)
            parts[name] = [kind(**part) for part in values[name]]
        return cls(**{**values, **parts})


def _often(rounds: int) -> str:
    return f" {rounds} times" if rounds > 1 else ""


def finite_or_none(value: float) -> float | None:
    """The value, or None if it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _require_fields(cls: type, values: Mapping[str, Any]) -> None:
    expected = {each.name for each in fields(cls)}
    if differing := sorted(expected ^ set(values)):
        raise ValueError(
            f"not a {cls.__name__} of this version: {', '.join(differing)} missing or unknown"
        )


OnRound = Callable[[RoundReport, State], None]
"""What is called on rank 0 after every merge, with its report and a copy of its weights."""
