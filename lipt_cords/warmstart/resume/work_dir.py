"""Stores a run in ``work_dir``, so that it can be resumed after its last merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from lipt_cords.models.state import State
from lipt_cords.training.cheaper.tickets import TicketRecord
from lipt_cords.warmstart.report import RoundReport, WorkerSummary
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.run import CommonStart, Run
from lipt_cords.warmstart.team import Team
from lipt_cords.warmstart.watch.watcher import Watcher
from lipt_cords.warmstart.worker_results import FinishedWorker

START = "theta_star"


class WorkDir(Watcher):
    """Stores theta* and every merge, with the state of all watchers, and reads them again.

    Each round has its own small record, which stays, so a merge holds only the newest state.

    Args:
        team: the ranks and their workers.
        folder: of the run, or None, which stores nothing.
    """

    def __init__(self, team: Team, folder: RunFolder | None) -> None:
        self._team, self._ranks, self._folder = team, team.ranks, folder
        self._watchers: Sequence[Watcher] = ()
        self._recorded = 0  # rounds whose records are stored
        self._resumed_after = 0  # rounds

    def stored_start(self) -> CommonStart | None:
        stored = None if self._folder is None else self._folder.find(START)
        if stored is None:
            return None
        passes, on_given, drawn = (stored.details[key] for key in ("passes", "searched", "drawn"))
        found = None if drawn is None else TicketRecord(**drawn)
        return CommonStart(passes, on_given, found, stored.groups["state"])

    def keep_start(self, done: CommonStart) -> None:
        if self._folder is not None and done.state is not None:
            drawn = None if done.drawn is None else asdict(done.drawn)
            details = {"passes": done.passes, "searched": done.on_given_net, "drawn": drawn}
            self._folder.keep(START, {"state": done.state}, details)

    def resume(self, run: Run, watchers: Sequence[Watcher]) -> None:
        """Resume after the last stored merge, which rank 0 reads and sends to all.

        Raises:
            ValueError: a file was changed, or the record of a round is missing.
        """
        self._watchers = watchers
        states: list[State] = []

        def look() -> dict[str, Any] | None:
            found = None if self._folder is None else self._find(self._folder)
            if found is not None:
                states.extend([found.pop("start"), found.pop("memory")])
                memory = states[1].items()
                found["memory"] = [(name, tuple(v.shape), v.dtype) for name, v in memory]
            return found

        found = self._ranks.on_main(look, "the last stored merge")
        if found is None:
            return
        run.reports, run.summaries = found["reports"], found["summaries"]
        run.round = self._resumed_after = self._recorded = len(run.reports)
        run.forward_passes = found["values"]["forward_passes"]
        for one in watchers:
            if one.name:
                tensors = found["tensors"].get(one.name, {})
                try:
                    one.restore(run, tensors, found["values"].get(one.name, {}))
                except (TypeError, KeyError) as error:
                    raise _other_version(self._folder, error) from error
        memory = {name: torch.zeros(shape, dtype=kind) for name, shape, kind in found["memory"]}
        if states:  # on rank 0
            run.start, memory = states
        run.start = self._ranks.broadcast(run.start)
        run.outer_state = self._ranks.broadcast(memory) if memory else {}
        residuals = self._find_residuals(run.round - 1, found["values"]["residuals"])
        self._team.resume_after(run.start, run.round - 1, residuals)

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        folder = self._folder
        if folder is None:
            return
        # If the folder is not shared, the other ranks have files of earlier rounds too.
        kept = self._ranks.everywhere(
            lambda: self._keep_residuals(folder, run.round - 1), "storing residuals"
        )
        written = self._ranks.on_main(
            lambda: (
                all(all(part.values()) for part in kept)
                and self._store(folder, run, sorted(worker for part in kept for worker in part))
            ),
            "storing a merge",
        )
        if written:
            folder.remove_before(run.round - 1)

    def notes(self) -> list[str]:
        notes = []
        if self._resumed_after:
            notes.append(f"resumed after the merge of round {self._resumed_after} in work_dir")
        if self._folder is not None and self._folder.unwritten:
            named = ", ".join(self._folder.unwritten)
            notes.append(f"could not be written to work_dir: {named}")
        return notes

    def _keep_residuals(self, folder: RunFolder, number: int) -> dict[int, bool]:
        """Write the residuals of this rank's workers: for each whether it was written."""
        return {
            worker: folder.keep(_residual(number, worker), {"residual": residual}, {})
            for worker, residual in self._team.residuals.items()
        }

    def _find_residuals(self, number: int, workers: Sequence[int]) -> dict[int, State]:
        """Read the residuals of this rank's workers, of those that have one.

        Raises:
            ValueError: one is not there, or was changed.
        """
        folder, ranks = self._folder, self._ranks
        if folder is None:
            return {}

        def look() -> dict[int, State]:
            found = {}
            for worker in workers:
                if worker % ranks.size != ranks.rank:
                    continue
                stored = folder.find(_residual(number, worker))
                if stored is None:
                    raise ValueError(
                        f"{folder.root / _residual(number, worker)}.json is missing: it holds what "
                        f"the codec has not sent yet of worker {worker}. Resume with the number of "
                        f"processes that wrote work_dir, or share it between machines; else delete "
                        f"{folder.root} and run again"
                    )
                found[worker] = stored.groups["residual"]
            return found

        found: dict[int, State] = {}
        ranks.everywhere(lambda: found.update(look()), "residuals of the last merge")
        return found

    def _store(self, folder: RunFolder, run: Run, residuals: list[int]) -> bool:
        """Write the records of the rounds, then the merge; whether all were written."""
        while self._recorded < len(run.reports):
            number = self._recorded
            details = {
                "round": asdict(run.reports[number]),
                "summaries": [asdict(one) for one in run.summaries[number]],
            }
            if not folder.keep(_record(number), {}, details):
                return False  # tried again at the next merge
            self._recorded += 1
        groups = {"start": run.start, "memory": run.outer_state}
        values: dict[str, Any] = {"forward_passes": run.forward_passes, "residuals": residuals}
        for one in self._watchers:
            if one.name:
                tensors, values[one.name] = one.state()
                groups |= {f"{one.name}:{group}": state for group, state in tensors.items()}
        return folder.keep(_merge(run.round - 1), groups, values)

    def _find(self, folder: RunFolder) -> dict[str, Any] | None:
        """The last stored merge; None if there is none."""
        merged = [n for n in folder.rounds() if (folder.place(n) / "merge.json").exists()]
        stored = folder.find(_merge(merged[-1])) if merged else None
        if stored is None:
            return None
        reports: list[RoundReport] = []
        summaries: list[list[WorkerSummary]] = []
        for number in range(merged[-1] + 1):
            anew = f"delete {folder.all_of_it} and run again"
            record = folder.find(_record(number), remedy=anew)
            if record is None:
                raise ValueError(
                    f"{folder.root / _record(number)}.json is missing, which the merge of round "
                    f"{merged[-1] + 1} needs: {anew}"
                )
            try:
                reports.append(RoundReport(**record.details["round"]))
                summaries.append([WorkerSummary(**one) for one in record.details["summaries"]])
            except (TypeError, KeyError) as error:
                raise _other_version(folder, error) from error
        tensors: dict[str, dict[str, State]] = {}
        for key, state in stored.groups.items():
            watcher, colon, group = key.partition(":")
            if colon:
                tensors.setdefault(watcher, {})[group] = state
        return {
            "start": stored.groups["start"], "memory": stored.groups.get("memory", {}),
            "reports": reports, "summaries": summaries,
            "values": stored.details, "tensors": tensors,
        }  # fmt: skip


def _other_version(folder: RunFolder | None, error: Exception) -> ValueError:
    where = "work_dir" if folder is None else str(folder.root)
    what = where if folder is None else folder.all_of_it
    return ValueError(
        f"{where} was written by another version of lipt-cords ({type(error).__name__}: {error}): "
        f"delete {what} and run again"
    )


def _merge(number: int) -> str:
    return f"round_{number:05d}/merge"


def _residual(number: int, worker: int) -> str:
    return f"round_{number:05d}/residual_{worker:05d}"


def _record(number: int) -> str:
    return f"history/round_{number:05d}"
