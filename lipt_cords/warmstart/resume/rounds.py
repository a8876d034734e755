"""What happened in the rounds so far, equal on every rank, and kept where a run can resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from lipt_cords.models.state import State
from lipt_cords.training.cheaper.tickets import Drawn
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.report import RoundReport, WorkerSummary
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.watch.probe import Reading
from lipt_cords.warmstart.watch.stability import Stability, measure_stability
from lipt_cords.warmstart.watch.stop import should_stop


class History:
    """The rounds of a warm start.

    Args:
        common_passes: samples that the common start trained on.
        common_work: the same, each as dear as the net that it trained.
    """

    def __init__(self, common_passes: int, common_work: float | None = None) -> None:
        self.common_passes = common_passes
        self.common_work = common_passes if common_work is None else common_work
        self.drawn: Drawn | None = None
        """The ticket that the workers voted for, once they have."""
        self.dense_forward_passes = 0
        """Of the samples run forward, those on the given net, before a vote."""
        self.masks: list[Tensor] = []
        """What they said before, merge by merge."""
        self.rounds: list[RoundReport] = []
        self.summaries: list[list[WorkerSummary]] = []
        self.stability: list[Stability] = []
        self.forward_passes = 0
        """Samples that workers and merges were evaluated on."""
        self.judged_passes = (0, 0)
        """Samples that rank 0 had run forward for soups at the last merge that was written: to
        evaluate them, and to refresh their BatchNorm."""
        self._last_reading: Reading | None = None
        self._asked = 0  # rounds of which it is known whether stop_when held
        self._stopped: int | None = None
        self._held_before = False
        self._recorded = 0  # rounds whose records are on disk

    @property
    def last_summaries(self) -> list[WorkerSummary]:
        """Of the last merge."""
        return self.summaries[-1]

    def stopped_after(self, config: WarmStartConfig) -> int | None:
        """After how many rounds ``stop_when`` held a second time in a row; None if it did not."""
        if config.stop_when is not None and self._stopped is None:
            for one in self.rounds[self._asked :]:
                if not one.stability:
                    continue
                # One reading is noise: a loss that rose by chance has not ceased to fall.
                held = should_stop(config.stop_when, Stability.parse(one.stability))
                if held and self._held_before:
                    self._stopped = one.round + 1
                    break
                self._held_before = held
        self._asked = len(self.rounds)
        return self._stopped

    def planned(self, config: WarmStartConfig) -> int:
        """Rounds that will have run in the end, as far as is known.

        With the schedule ``wsd`` a third of the rounds so far follows a stop, to lower the rate.
        """
        stopped = self.stopped_after(config)
        if stopped is None:
            return config.rounds
        more = math.ceil(stopped / 3) if config.schedule == "wsd" else 0
        return min(config.rounds, stopped + more)

    def decay(self, config: WarmStartConfig) -> tuple[int, int] | None:
        """The rounds, from and to, in which the rate falls after a stop; None without one."""
        stopped = self.stopped_after(config)
        if stopped is None or self.planned(config) == config.rounds:
            return None
        return stopped, self.planned(config)

    def add(
        self,
        summaries: Sequence[WorkerSummary],
        readings: Sequence[Reading],
        merged: Reading | None,
        weight_bytes: int,
        config: WarmStartConfig,
    ) -> None:
        """Add a round.

        Args:
            summaries: of all workers.
            readings: of the merged workers, on the probe.
            merged: of the merged model.
            weight_bytes: that the ranks exchanged.
            config: the options.
        """
        passes = [one.passes for one in summaries]
        work = [one.passes * one.work for one in summaries]
        before = self.rounds[-1].critical_path_passes if self.rounds else self.common_passes
        before_work = self.rounds[-1].critical_path_work if self.rounds else self.common_work
        measured = None
        if readings:
            path = before + max(passes)
            measured = measure_stability(
                readings, merged, self._last_reading, self.stability, path, config.seed
            )
            self.stability.append(measured)
        if merged is not None:
            self._last_reading = merged
        self.summaries.append(list(summaries))
        self.rounds.append(
            RoundReport(
                round=len(self.rounds),
                workers=sum(one.kept for one in summaries),
                passes=sum(passes),
                critical_path_passes=before + max(passes),
                weight_bytes=weight_bytes,
                seconds=max(one.seconds for one in summaries),
                work=sum(work),
                critical_path_work=before_work + max(work),
                stability=None if measured is None else asdict(measured),
            )
        )

    def keep(self, folder: RunFolder, start: State, velocity: State) -> bool:
        """Write the merge, from which a run resumes; the workers before it are not needed then.

        What happened in a round is a small record of its own that stays, so that a merge holds
        the newest state alone, however many rounds there are.

        Returns:
            Whether it was written, with the records of all rounds up to it.
        """
        while self._recorded < len(self.rounds):
            number = self._recorded
            details = {
                "round": asdict(self.rounds[number]),
                "summaries": [asdict(one) for one in self.summaries[number]],
            }
            if not folder.keep(_record(number), {}, details):
                return False  # the next merge tries again
            self._recorded += 1
        groups = {"state": start, "velocity": velocity}
        if self._last_reading is not None:
            groups["reading"] = {
                "losses": self._last_reading.losses,
                "class_gradients": self._last_reading.class_gradients,
            }
        if self.masks:
            groups["masks"] = {"masks": torch.stack(self.masks).to(torch.uint8)}
        counted: dict[str, Any] = {
            "common_passes": self.common_passes,
            "common_work": self.common_work,
            "dense_forward_passes": self.dense_forward_passes,
            "drawn": None if self.drawn is None else asdict(self.drawn),
            "forward_passes": self.forward_passes,
            "judged_passes": list(self.judged_passes),
            "accuracy": None if self._last_reading is None else self._last_reading.accuracy,
        }
        return folder.keep(_merge(len(self.rounds) - 1), groups, counted)

    @classmethod
    def find(cls, folder: RunFolder) -> tuple[History, State, State] | None:
        """The history up to the last merge in a folder, its weights, and the outer momentum.

        Raises:
            ValueError: a file is not what was written, or the record of a round is missing.
        """
        merged = [n for n in folder.rounds() if (folder.place(n) / "merge.json").exists()]
        stored = folder.find(_merge(merged[-1])) if merged else None
        if stored is None:
            return None
        details = stored.details
        history = cls(details["common_passes"], details["common_work"])
        history.dense_forward_passes = details["dense_forward_passes"]
        history.drawn = None if details["drawn"] is None else Drawn(**details["drawn"])
        if "masks" in stored.groups:
            history.masks = list(stored.groups["masks"]["masks"].bool())
        for number in range(merged[-1] + 1):
            record = folder.find(_record(number))
            if record is None:
                raise ValueError(
                    f"{folder.root / _record(number)}.json is missing, which the merge of round "
                    f"{merged[-1] + 1} needs: delete {folder.root} and run again"
                )
            one = RoundReport(**record.details["round"])
            history.rounds.append(one)
            history.summaries.append([WorkerSummary(**o) for o in record.details["summaries"]])
            if one.stability is not None:
                history.stability.append(Stability.parse(one.stability))
        history._recorded = len(history.rounds)
        history.forward_passes = details["forward_passes"]
        evaluated, refreshed = details["judged_passes"]
        history.judged_passes = (evaluated, refreshed)
        if "reading" in stored.groups:
            history._last_reading = Reading(
                accuracy=details["accuracy"], **stored.groups["reading"]
            )
        return history, stored.groups["state"], stored.groups.get("velocity", {})


def _merge(number: int) -> str:
    return f"round_{number:05d}/merge"


def _record(number: int) -> str:
    return f"history/round_{number:05d}"
