"""The bill: the costs of all parts of a warm start, added up in one report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lipt_cords.models.state import State
from lipt_cords.training.cheaper.tickets import ticket_notes
from lipt_cords.warmstart.clock import Clock
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.judge import FinalEvaluation, Judge
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.report import RoundReport, WarmStartReport, WorkerSummary
from lipt_cords.warmstart.round_inputs import RoundInputs
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.watch.watcher import Watcher
from lipt_cords.warmstart.worker_results import FinishedWorker

ENOUGH = 100
"""Held-out samples that tell whether a model has learned anything."""


class Bill(Watcher):
    """Counts the costs of a warm start round by round; only this class makes reports.

    A change of the samples (``forget``, ``add``) counts as one more merge.

    Args:
        inputs: of the rounds: FLOPs of the given net, shards.
        ranks: the processes.
        clock: measures the seconds of each phase.
        judge: counts the passes of its evaluations and refreshes.
        earlier: the report to which this bill adds, or None.
    """

    name = "bill"

    def __init__(
        self,
        inputs: RoundInputs,
        ranks: Ranks,
        clock: Clock,
        judge: Judge,
        earlier: WarmStartReport | None = None,
    ) -> None:
        self._inputs, self._ranks, self._clock, self._judge = inputs, ranks, clock, judge
        self._earlier = earlier
        self.forward_flops = inputs.forward_flops
        """Of one sample in a forward pass of the net that is trained now."""
        self._on_given_net = 0  # forward passes, before a smaller net
        self._weight_bytes = 0  # before the round

    def load_earlier(self, run: Run) -> None:
        """Set the counts of a run to those of the earlier report."""
        if (before := self._earlier) is None:
            return
        run.reports, run.summaries = list(before.rounds), [list(before.workers)]
        run.common_passes = before.passes - sum(one.passes for one in before.rounds)
        spent = sum(one.work for one in before.rounds)
        run.common_work = before.flops / self._inputs.flops - spent
        run.forward_passes = before.evaluation_passes
        self._judge.refresh_passes = before.refresh_passes

    def before_round(self, run: Run) -> None:
        self._clock.enter("workers")
        self._weight_bytes = self._ranks.weight_bytes

    def after_training(self, run: Run) -> None:
        self._clock.enter("soup")

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        summaries = [one.summary for one in workers]
        passes = [one.passes for one in summaries]
        work = [one.passes * one.work for one in summaries]
        before, before_work = run.common_passes, run.common_work
        if run.reports:
            before = run.reports[-1].critical_path_passes
            before_work = run.reports[-1].critical_path_work
        run.forward_passes += sum(one.forward_passes for one in workers)
        run.summaries.append(summaries)
        run.reports.append(
            RoundReport(
                round=len(run.reports),
                workers=sum(one.kept for one in summaries),
                passes=sum(passes),
                critical_path_passes=before + max(passes),
                weight_bytes=self._ranks.weight_bytes - self._weight_bytes,
                seconds=max(one.seconds for one in summaries),
                work=sum(work),
                critical_path_work=before_work + max(work),
            )
        )

    def net_changes(self, run: Run) -> None:
        """From here on forward passes are those of a smaller net."""
        judge = self._judge
        self._on_given_net = run.forward_passes + judge.evaluation_passes + judge.refresh_passes

    def state(self) -> tuple[dict[str, State], dict[str, Any]]:
        judged = [self._judge.evaluation_passes, self._judge.refresh_passes]
        return {}, {"judged": judged, "on_given_net": self._on_given_net}

    def restore(self, run: Run, tensors: dict[str, State], values: dict[str, Any]) -> None:
        self._on_given_net = values["on_given_net"]
        if self._ranks.is_main:  # only rank 0 evaluates
            self._judge.evaluation_passes, self._judge.refresh_passes = values["judged"]

    def report(
        self,
        run: Run,
        finish: FinalEvaluation,
        *,
        planned_rounds: int,
        evaluation_seconds: float,
        ticket: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> WarmStartReport:
        """Add up all costs.

        Args:
            run: after its last merge.
            finish: the evaluation of the merged model.
            planned_rounds: the number of merges in the options.
            evaluation_seconds: seconds of evaluating workers, on rank 0, within the phase
                ``workers``.
            ticket: the report of the Early-Bird ticket, or None.
            notes: other events to report.
        """
        inputs, judge, ranks, rounds = self._inputs, self._judge, self._ranks, run.reports
        before = self._earlier
        workers = over_rounds(run.summaries)
        measured = [one.accuracy for one in workers if one.accuracy is not None]
        evaluated = judge.evaluation_passes + run.forward_passes
        smaller = evaluated + judge.refresh_passes - self._on_given_net
        return WarmStartReport(
            passes=run.common_passes + sum(one.passes for one in rounds),
            critical_path_passes=rounds[-1].critical_path_passes,
            evaluation_passes=evaluated,
            refresh_passes=judge.refresh_passes,
            flops=round((run.common_work + sum(one.work for one in rounds)) * inputs.flops),
            critical_path_flops=round(rounds[-1].critical_path_work * inputs.flops),
            forward_flops=self._on_given_net * inputs.forward_flops + smaller * self.forward_flops,
            bytes_communicated=ranks.bytes_communicated
            + (0 if before is None else before.bytes_communicated),
            seconds=self._clock.phases(evaluation_seconds, [one.seconds for one in rounds]),
            workers=workers,
            merged_accuracy=finish.accuracy,
            mean_worker_accuracy=sum(measured) / len(measured) if measured else None,
            accuracy_before_refresh=finish.before,
            accuracy_after_refresh=finish.after,
            refresh_kept=finish.refreshed,
            ranks=ranks.size if before is None else before.ranks,
            weight_bytes=ranks.weight_bytes + (0 if before is None else before.weight_bytes),
            rounds=list(rounds),
            stopped_early=len(rounds) < planned_rounds,
            stages=over_stages(stage for one in workers for stage in one.stages),
            ticket=ticket,
            notes=[
                *inputs.plan.notes(),
                *_nothing_pruned(inputs.config, workers),
                *_left_out(workers),
                *ticket_notes(ticket),
                *_nothing_learned(inputs, finish.accuracy),
                *notes,
            ],
        )


def over_rounds(parts: Sequence[Sequence[WorkerSummary]]) -> list[WorkerSummary]:
    """One summary per worker: costs added up over the rounds, results of the last round."""
    last: dict[int, WorkerSummary] = {}
    for one in (one for part in parts for one in part):
        before = last.get(one.worker)
        if before is not None:
            passes = before.passes + one.passes
            spent = before.passes * before.work + one.passes * one.work
            one = replace(
                one,
                steps=before.steps + one.steps,
                passes=passes,
                seconds=before.seconds + one.seconds,
                work=spent / passes if passes else 1.0,
                stages=over_stages([*before.stages, *one.stages]),
            )
        last[one.worker] = one
    return [last[worker] for worker in sorted(last)]


def over_stages(parts: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Steps and operations of every stage, added up."""
    found: dict[float, dict[str, float]] = {}
    for part in parts:
        before = found.get(part["end"])
        if before is None:
            found[part["end"]] = dict(part)
        else:
            for name in ("steps", "passes", "planned", "counted"):
                before[name] += part[name]
    return [found[end] for end in sorted(found)]


def _nothing_pruned(config: WarmStartConfig, workers: Sequence[WorkerSummary]) -> list[str]:
    wanted = config.sparsity != "none" and config.density < 1
    trained = [one for one in workers if one.steps]
    if not wanted or not trained or any(one.density < 1 for one in trained):
        return []
    return [f"sparsity={config.sparsity!r} found nothing to prune: the head stays dense"]


def _nothing_learned(inputs: RoundInputs, accuracy: float | None) -> list[str]:
    """What to do where the merged model is no better than the most frequent class."""
    samples = 0 if inputs.validation is None else len(inputs.validation)
    if accuracy is None or samples < ENOUGH:
        return []
    share = float(torch.bincount(inputs.labels).max()) / len(inputs.labels)
    if accuracy > share + math.sqrt(share * (1 - share) / samples):
        return []
    return [
        f"the merged model is right on {accuracy:.1%} of {samples:,} held-out samples, no more "
        f"than the most frequent class would be ({share:.1%}): its gradients say little. Train "
        "for longer (epochs), or at a smaller rate (lr); from pretrained weights take "
        "type='lipt-finetune'"
    ]


def _left_out(summaries: Sequence[WorkerSummary]) -> list[str]:
    return [
        f"worker {one.worker} is not in the soup: {one.reason}" for one in summaries if not one.kept
    ]
