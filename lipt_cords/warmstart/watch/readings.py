"""Evaluates workers and merges on the probe, and measures how stable the gradients are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from lipt_cords.models.state import State
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.judge import Judge
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.watch.probe import Probe, Reading
from lipt_cords.warmstart.watch.stability import Stability, measure_stability
from lipt_cords.warmstart.watch.watcher import Watcher
from lipt_cords.warmstart.worker_results import FinishedWorker


class ProbeReadings(Watcher):
    """Every few rounds, compares the workers, and the merge with the last one that was read.

    Args:
        config: ``probe_every``, the rounds and the seed.
        ranks: the processes.
        judge: evaluates merges, on rank 0.
        probe: the held-out samples, or None.
    """

    name = "readings"

    def __init__(
        self, config: WarmStartConfig, ranks: Ranks, judge: Judge, probe: Probe | None
    ) -> None:
        self._config, self._ranks, self._judge, self._probe = config, ranks, judge, probe
        self._last: Reading | None = None

    def before_round(self, run: Run) -> None:
        every = self._config.probe_every or max(1, self._config.rounds // 8)
        due = (run.round + 1) % every == 0 or run.in_last_round
        run.probe = self._probe if due else None

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        readings = [one.reading for one in workers if one.summary.kept and one.reading is not None]
        merged, probe = None, run.probe
        if probe is not None and self._config.rounds > 1:
            # A single merge is evaluated at the end; several are compared with each other.
            merged = self._ranks.on_main(
                lambda: self._judge.read(run.start, probe), "the reading of a merge"
            )
            run.forward_passes += len(probe)
        if readings:
            report = run.reports[-1]
            earlier = [Stability.parse(o.stability) for o in run.reports if o.stability is not None]
            measured = measure_stability(
                readings, merged, self._last, earlier, report.critical_path_passes,
                self._config.seed,
            )  # fmt: skip
            run.reports[-1] = replace(report, stability=asdict(measured))
        if merged is not None:
            self._last = merged

    def state(self) -> tuple[dict[str, State], dict[str, Any]]:
        if self._last is None:
            return {}, {}
        tensors = {"losses": self._last.losses, "class_gradients": self._last.class_gradients}
        return {"reading": tensors}, {"accuracy": self._last.accuracy}

    def restore(self, run: Run, tensors: dict[str, State], values: dict[str, Any]) -> None:
        if "reading" in tensors:
            self._last = Reading(accuracy=values["accuracy"], **tensors["reading"])
