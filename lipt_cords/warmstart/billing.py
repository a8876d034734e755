"""The bill, added up: from what the parts of a run did to one report."""

from __future__ import annotations

from collections.abc import Sequence

from lipt_cords.warmstart.cost import Clock
from lipt_cords.warmstart.plan import Plan
from lipt_cords.warmstart.report import WarmStartReport, WorkerSummary
from lipt_cords.warmstart.soup import Finish, Judge


def seconds_by_phase(
    clock: Clock, evaluation_seconds: float, summaries: Sequence[WorkerSummary]
) -> dict[str, float]:
    """The clock's phases, with evaluation taken apart, the critical path and the total."""
    seconds = dict(clock.seconds)
    seconds["workers"] -= evaluation_seconds
    seconds["evaluation"] = evaluation_seconds
    alone = seconds["common"] + seconds["soup"] + seconds["refresh"]
    seconds["critical_path"] = alone + max(one.seconds for one in summaries)
    seconds["total"] = clock.total()
    return seconds


def make_report(
    plan: Plan,
    common_passes: int,
    summaries: Sequence[WorkerSummary],
    judge: Judge,
    finish: Finish,
    *,
    flops: tuple[int, int],
    ranks: int,
    sent: int,
    seconds: dict[str, float],
) -> WarmStartReport:
    """Add up what everyone did.

    Args:
        plan: the shards, for notes.
        common_passes: samples that the common start trained on.
        summaries: of all workers.
        judge: what it evaluated and refreshed.
        finish: the outcome.
        flops: of one sample, in a training step and in the forward pass alone.
        ranks: processes that took part.
        sent: bytes that went between them.
        seconds: by phase.
    """
    passes = common_passes + sum(one.passes for one in summaries)
    critical = common_passes + max(one.passes for one in summaries)
    measured = [one.accuracy for one in summaries if one.accuracy is not None]
    held_out = 0 if judge.validation is None else len(judge.validation)
    evaluation_passes = judge.evaluation_passes + held_out * len(measured)
    return WarmStartReport(
        passes=passes,
        critical_path_passes=critical,
        evaluation_passes=evaluation_passes,
        refresh_passes=judge.refresh_passes,
        flops=passes * flops[0],
        critical_path_flops=critical * flops[0],
        forward_flops=(evaluation_passes + judge.refresh_passes) * flops[1],
        bytes_communicated=sent,
        seconds=seconds,
        workers=list(summaries),
        merged_accuracy=finish.accuracy,
        mean_worker_accuracy=sum(measured) / len(measured) if measured else None,
        accuracy_before_refresh=finish.before,
        accuracy_after_refresh=finish.after,
        refresh_kept=finish.refreshed,
        ranks=ranks,
        notes=plan.notes() + _notes(summaries),
    )


def _notes(summaries: Sequence[WorkerSummary]) -> list[str]:
    return [
        f"worker {one.worker} is not in the soup: {one.reason}" for one in summaries if not one.kept
    ]
