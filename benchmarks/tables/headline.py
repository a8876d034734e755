"""README's table: every question with its answer, whatever it is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.tables.choose import above_random, fractions_of, measured, share_of_training
from benchmarks.tables.evidence import first_use, gains, signed, uncut
from benchmarks.tables.parts import RESULTS, load, markdown
from benchmarks.tables.question import (
    Runs,
    all_runs,
    asked,
    by_method,
    compared,
    full_ladder,
    mean,
    merges,
    ratios,
)

KINDS = {"glister": "GLISTER", "gradmatch": "GradMatch", "craig": "CRAIG"}
NAMES = {"cifar10-jpeg": "CIFAR-10 (JPEG)", "fashion-mnist": "Fashion-MNIST"}


def headline() -> str:
    """Questions, where they were asked, and what came out."""
    rows = [*_chosen(), *_fixed(), *_tax(), *_end_to_end(), *_budget(), *_selectors()]
    return markdown(("Question", "Data, seeds", "Answer"), rows).replace("---:", "---")


def _where(name: str, seeds: int) -> str:
    return f"{NAMES[name]}, {seeds}"


def workers(runs: Runs) -> int:
    """How many workers a warm start had."""
    return len(runs[0]["warm_start"]["workers"])


def off_the_ladder(results: dict[str, Any], method: str) -> str:
    """What is said of a method none of whose lengths has an accuracy of the all-data runs."""
    ladder = full_ladder(results)
    runs = max(
        (runs for (name, _), runs in all_runs(results) if name == method),
        key=lambda runs: mean(runs, "passes"),
    )
    passes = f"{mean(runs, 'passes'):,.0f} passes"
    if mean(runs) > max(accuracy for accuracy, _ in ladder):
        return f"with {passes} more accurate than every all-data training that was run"
    shortest = f"{ladder[0][1]:,.0f}"
    return f"with {passes} less accurate than all-data training with {shortest}"


def between(values: Sequence[float]) -> str:
    """The least and the most, to a tenth."""
    least, most = f"{min(values):.1f}", f"{max(values):.1f}"
    return least if least == most else f"{least} to {most}"


def _seeds(results: dict[str, Any]) -> int:
    return len({run["seed"] for run in results["parts"][0]["runs"]})


def _chosen() -> list[list[str]]:
    rows = []
    for name, results in measured():
        fractions = fractions_of(results)
        shares = [100 * share_of_training(results, fraction) for fraction in fractions]
        gained = "; ".join(
            f"{100 * fraction:.0f} %: {signed(above_random(results, fraction))}"
            for fraction in fractions
        )
        seeds = len({row["seed"] for row in results["rows"] if row["method"] == "chosen"})
        rows.append(
            [
                "A fixed subset from `choose_subset`, without training, against a random one, "
                f"points; choosing takes {min(shares):.0f} to {max(shares):.0f} % of one training",
                _where(name, seeds),
                gained,
            ]
        )
    return rows


def _fixed() -> list[list[str]]:
    rows = []
    for name in NAMES:
        if not (RESULTS / f"fixed_subset-{name}.json").exists():
            continue
        results = load(f"fixed_subset-{name}")
        parts, random = [], []
        for fraction in dict.fromkeys(row["fraction"] for row in results["rows"]):
            if uncut(results, fraction):
                random.append(f"{100 * fraction:.0f}")
                continue
            parts.append(
                f"{100 * fraction:.0f} %: {signed(gains(results, fraction))} (by one worker's "
                f"scores: {signed(gains(results, fraction, 'one-worker'))})"
            )
        if random:
            parts.append(f"{', '.join(random)} %: the trials chose the random subset itself")
        seeds = len({row["seed"] for row in results["rows"]})
        few, many = first_use(results)
        rows.append(
            [
                "A fixed subset chosen by LiPT's difficulty, against a random one, points; chosen "
                f"and trained once: {few:.0f} to {many:.0f} times the random one's passes",
                _where(name, seeds),
                "; ".join(parts),
            ]
        )
    return rows


def _tax() -> list[list[str]]:
    rows = []
    for name, results in asked("warm-up"):
        runs = by_method(results)
        lipt, full = runs["lipt+rs2"], runs["full=10+rs2"]
        cost = "warmup_critical_passes"
        rows.append(
            [
                "`warm_start: lipt` against 10 full epochs, then RS2 on a tenth",
                _where(name, _seeds(results)),
                f"critical path {mean(full, cost) / mean(lipt, cost):.1f} times shorter with "
                f"{workers(lipt)} workers; accuracy {compared(lipt, full)}",
            ]
        )
    return rows


def _end_to_end() -> list[list[str]]:
    rows = []
    for name, results in asked("end-to-end"):
        parts = []
        for method, words in (("lipt-rounds+rs2", "LiPT in rounds, then RS2"), ("rs2", "RS2")):
            found = ratios(results, method)
            if not found:
                parts.append(f"{words}: {off_the_ladder(results, method)}")
                continue
            paths, totals, (runs, *_) = zip(*found, strict=True)
            parts.append(
                f"{words}: {between(paths)} times, with {between(totals)} times the passes in all"
                + (f", {workers(runs)} workers" if merges(runs) else "")
            )
        rows.append(
            [
                "Critical path shorter than that of training on all data to equal accuracy",
                _where(name, _seeds(results)),
                "; ".join(parts),
            ]
        )
    return rows


def _budget() -> list[list[str]]:
    rows = []
    for name, results in asked("budget"):
        runs = by_method(results)
        best = max((some for m, some in runs.items() if m.startswith("lipt")), key=mean)
        rows.append(
            [
                "Equal passes in all: the best with LiPT against RS2, points",
                _where(name, _seeds(results)),
                f"{best[0]['label']}: {compared(best, runs['rs2'])}",
            ]
        )
    return rows


def _selectors() -> list[list[str]]:
    rows = []
    for name, results in asked("warm-up"):
        runs, cost = by_method(results), "warmup_critical_passes"
        shorter = statistics.fmean(
            mean(runs[f"full=8+{kind}"], cost) / mean(runs[f"lipt+{kind}"], cost) for kind in KINDS
        )
        parts = [
            f"{label} {compared(runs[f'lipt+{kind}'], runs[f'full=8+{kind}'])}"
            for kind, label in KINDS.items()
        ]
        rows.append(
            [
                f"Re-selected after `warm_start: lipt` ({workers(runs['lipt+glister'])} workers), "
                f"against after 8 full epochs of {shorter:.1f} times the critical path, points",
                _where(name, _seeds(results)),
                "; ".join(parts),
            ]
        )
    return rows
