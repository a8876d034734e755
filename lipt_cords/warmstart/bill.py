"""The bill, added up: from what the parts of a run did to one report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lipt_cords.training.cheaper.tickets import ticket_notes
from lipt_cords.warmstart.clock import Clock
from lipt_cords.warmstart.merge.soup import Finish, Judge
from lipt_cords.warmstart.plan import Plan
from lipt_cords.warmstart.report import RoundReport, WarmStartReport, WorkerSummary


def seconds_by_phase(
    clock: Clock, evaluation_seconds: float, rounds: Sequence[RoundReport]
) -> dict[str, float]:
    """The clock's phases, with evaluation taken apart, the critical path and the total."""
    seconds = dict(clock.seconds)
    for phase in ("workers", "soup"):  # a run that resumes after its last merge has neither
        seconds.setdefault(phase, 0.0)
    seconds["workers"] -= evaluation_seconds
    seconds["evaluation"] = evaluation_seconds
    alone = seconds["common"] + seconds["soup"] + seconds["refresh"]
    seconds["critical_path"] = alone + sum(one.seconds for one in rounds)
    seconds["total"] = clock.total()
    return seconds


def over_rounds(parts: Sequence[Sequence[WorkerSummary]]) -> list[WorkerSummary]:
    """One summary a worker: work added up over the rounds, outcome as of its last one."""
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


def make_report(
    plan: Plan,
    common_passes: int,
    summaries: Sequence[WorkerSummary],
    rounds: Sequence[RoundReport],
    judge: Judge,
    finish: Finish,
    *,
    flops: int,
    forward_flops: tuple[int, int],
    dense_forward_passes: int,
    common_work: float,
    ticket: dict[str, Any] | None,
    ranks: int,
    sent: int,
    weight_bytes: int,
    forward_passes: int,
    stopped_early: bool,
    seconds: dict[str, float],
    notes: Sequence[str] = (),
) -> WarmStartReport:
    """Add up what everyone did.

    Args:
        plan: the shards, for notes.
        common_passes: samples that the common start trained on.
        summaries: of all workers, over all rounds.
        rounds: the merges.
        judge: what it evaluated and refreshed.
        finish: the outcome.
        flops: of one sample in a training step of the given net.
        forward_flops: of one sample in a forward pass of the given net, and of the one that was
            merged in the end.
        dense_forward_passes: of all forward passes, those of the given net before a ticket.
        common_work: the common start's passes, each as dear as the net that it trained.
        ticket: what is told of an Early-Bird ticket, or None.
        ranks: processes that took part.
        sent: bytes that went between them.
        weight_bytes: those of weights among them.
        forward_passes: samples that workers and merges were evaluated on, round by round.
        stopped_early: whether ``stop_when`` ended the rounds.
        seconds: by phase.
        notes: what happened beside.
    """
    passes = common_passes + sum(one.passes for one in rounds)
    critical = rounds[-1].critical_path_passes
    measured = [one.accuracy for one in summaries if one.accuracy is not None]
    evaluation_passes = judge.evaluation_passes + forward_passes
    return WarmStartReport(
        passes=passes,
        critical_path_passes=critical,
        evaluation_passes=evaluation_passes,
        refresh_passes=judge.refresh_passes,
        flops=round((common_work + sum(one.work for one in rounds)) * flops),
        critical_path_flops=round(rounds[-1].critical_path_work * flops),
        forward_flops=dense_forward_passes * forward_flops[0]
        + (evaluation_passes + judge.refresh_passes - dense_forward_passes) * forward_flops[1],
        bytes_communicated=sent,
        seconds=seconds,
        workers=list(summaries),
        merged_accuracy=finish.accuracy,
        mean_worker_accuracy=sum(measured) / len(measured) if measured else None,
        accuracy_before_refresh=finish.before,
        accuracy_after_refresh=finish.after,
        refresh_kept=finish.refreshed,
        ranks=ranks,
        weight_bytes=weight_bytes,
        rounds=list(rounds),
        stopped_early=stopped_early,
        stages=over_stages(stage for one in summaries for stage in one.stages),
        ticket=ticket,
        notes=[*plan.notes(), *_notes(summaries), *ticket_notes(ticket), *notes],
    )


def _notes(summaries: Sequence[WorkerSummary]) -> list[str]:
    return [
        f"worker {one.worker} is not in the soup: {one.reason}" for one in summaries if not one.kept
    ]
