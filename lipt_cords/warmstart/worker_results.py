"""Finished workers, kept until the merge: in memory, or on disk if there is a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from lipt_cords.base.messages import travels
from lipt_cords.models.state import State, digest
from lipt_cords.warmstart.merge.fixed_point import largest_changes
from lipt_cords.warmstart.plan import FitPlan
from lipt_cords.warmstart.report import WorkerSummary, finite_or_none
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.watch.probe import Reading
from lipt_cords.warmstart.workers.visits import Visits
from lipt_cords.warmstart.workers.worker import WorkerResult

NOT_FINITE = "weights are not finite"
LOST = "was lost with its process"
NOTHING = torch.zeros(0, dtype=torch.int16)
"""In place of the changes of a worker that is not merged."""


@travels
@dataclass(frozen=True)
class FinishedWorker:
    """What all ranks learn of a worker of a round: all but its weights.

    Attributes:
        summary: for the report.
        largest: exponent of the largest change of every slice of its state, for the sum's grids.
        reading: its losses and gradients on the probe.
        forward_passes: samples that its evaluation ran forward.
        visits: with ``log_samples``, what it saw of its samples.
    """

    summary: WorkerSummary
    largest: Tensor
    reading: Reading | None = None
    forward_passes: int = 0
    visits: Visits | None = None


class WorkerResults:
    """The finished workers of a round that one rank holds.

    Args:
        rank: the number of this process.
        plan: the shards.
        folder: where finished workers are kept, or None.
    """

    def __init__(self, rank: int, plan: FitPlan, folder: RunFolder | None) -> None:
        self._rank, self._plan, self._folder = rank, plan, folder
        self._states: dict[int, State] = {}
        self.start: State = {}

    def begin_round(self, start: State, number: int) -> None:
        """Begin a round: drop the workers of the round before.

        Args:
            start: the weights that its workers start from.
            number: of the round.
        """
        self.start, self._round = start, number
        self._states = {}
        self._start_digest = digest(start) if self._folder is not None else ""

    def state_of(self, worker: int) -> State:
        """The weights in this round of a worker that this rank holds, on the CPU.

        Raises:
            ValueError: its file is gone or changed; it is named.
        """
        state = self._states.get(worker)
        if state is None and self._folder is not None:
            stored = self._folder.find(self._name(worker))
            state = None if stored is None else stored.groups["state"]
        if state is None:
            raise self._gone(worker)
        return state

    def require(self, workers: Sequence[int]) -> None:
        """See that the weights of some workers, which this rank holds, are there.

        Raises:
            ValueError: a file is gone; it is named.
        """
        for worker in workers:
            there = worker in self._states or (
                self._folder is not None
                and (self._folder.root / f"{self._name(worker)}.json").exists()
            )
            if not there:
                raise self._gone(worker)

    def _gone(self, worker: int) -> ValueError:
        where = "" if self._folder is None else f": {self._folder.root / self._name(worker)}"
        return ValueError(
            f"the weights of worker {worker}, which had finished, are gone{where}: run again, and "
            "leave the files of a run alone"
        )

    def keep(self, result: WorkerResult) -> FinishedWorker:
        """Keep one trained worker, on disk if there is a folder."""
        worker = result.worker
        summary = WorkerSummary(
            worker=worker,
            rank=self._rank,
            samples=len(self._plan.shards[worker]),
            steps=result.steps,
            passes=result.passes,
            loss=finite_or_none(result.loss),
            accuracy=result.accuracy,
            density=result.density,
            seconds=result.seconds,
            work=result.work,
            stages=result.stages,
            kept=result.finite,
            reason=None if result.finite else NOT_FINITE,
            classes_missing=self._plan.classes_missing[worker],
        )
        state = {name: value.cpu() for name, value in result.state.items()}
        largest = largest_changes(state, self.start) if result.finite else NOTHING
        written = False
        if self._folder is not None:
            groups = {"state": state if result.finite else {}, "largest": {"changes": largest}}
            if result.reading is not None:
                groups["reading"] = {
                    "losses": result.reading.losses,
                    "class_gradients": result.reading.class_gradients,
                }
            if result.visits is not None:
                groups["visits"] = dict(vars(result.visits))
            accuracy = None if result.reading is None else result.reading.accuracy
            details = {
                "start": self._start_digest, "summary": asdict(summary),
                "reading_accuracy": accuracy, "forward_passes": result.forward_passes,
            }  # fmt: skip
            written = self._folder.keep(self._name(worker), groups, details)
        if result.finite and not written:
            self._states[worker] = state
        return FinishedWorker(
            summary, largest, result.reading, result.forward_passes, result.visits
        )

    def hold(self, summary: WorkerSummary, state: State | None) -> FinishedWorker:
        """Keep a worker of an earlier run in memory; with None it is not merged."""
        if state is None:
            return FinishedWorker(summary, NOTHING)
        self._states[summary.worker] = state
        return FinishedWorker(summary, largest_changes(state, self.start))

    def find(self, worker: int) -> FinishedWorker | None:
        """Read a worker from the folder; None if it is not there."""
        if self._folder is None:
            return None
        name = self._name(worker)
        stored = self._folder.find(name)
        if stored is None:
            return None
        if stored.details.get("start") != self._start_digest:
            raise ValueError(
                f"{self._folder.root / name}.json started from other weights than this run: "
                f"delete {self._folder.root} and run again"
            )
        summary = replace(WorkerSummary(**stored.details["summary"]), rank=self._rank)
        reading = None
        if "reading" in stored.groups:
            reading = Reading(
                accuracy=stored.details["reading_accuracy"], **stored.groups["reading"]
            )
        visits = Visits(**stored.groups["visits"]) if "visits" in stored.groups else None
        largest = stored.groups["largest"]["changes"]
        return FinishedWorker(summary, largest, reading, stored.details["forward_passes"], visits)

    def lost(self, worker: int, rank: int) -> FinishedWorker:
        """A worker that was lost with its process."""
        summary = WorkerSummary(
            worker=worker,
            rank=rank,
            samples=len(self._plan.shards[worker]),
            steps=0,
            passes=0,
            loss=None,
            accuracy=None,
            density=1.0,
            seconds=0.0,
            kept=False,
            reason=LOST,
            classes_missing=self._plan.classes_missing[worker],
        )
        return FinishedWorker(summary, NOTHING)

    def _name(self, worker: int) -> str:
        return f"round_{self._round:05d}/worker_{worker:05d}"
