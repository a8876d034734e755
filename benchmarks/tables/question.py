"""Tables of benchmarks/evidence.py: what each question's comparison found, win or lose."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

from benchmarks.tables.parts import RESULTS, load, markdown, origin, spread
from lipt_cords.experiments.report.summary import times

SETS = ("fashion-mnist", "cifar10-jpeg")
Runs = list[dict[str, Any]]


def asked(question: str) -> list[tuple[str, dict[str, Any]]]:
    """The committed results of a question, set by set."""
    names = [name for name in SETS if (RESULTS / f"evidence-{question}-{name}.json").exists()]
    return [(name, load(f"evidence-{question}-{name}")) for name in names]


def runs_of(results: dict[str, Any], part: int = 0) -> dict[tuple[str, float], Runs]:
    """The runs of a part by method and fraction, seed by seed; none may have failed."""
    found: dict[tuple[str, float], Runs] = {}
    for run in sorted(results["parts"][part]["runs"], key=lambda run: run["seed"]):
        if run["status"] != "ok":
            raise ValueError(f"a run failed: {run['method']}, seed {run['seed']}: {run['error']}")
        found.setdefault((run["method"], run["fraction"]), []).append(run)
    return found


def by_method(results: dict[str, Any], part: int = 0) -> dict[str, Runs]:
    """The runs of a part with a single fraction, by method."""
    return {method: runs for (method, _), runs in runs_of(results, part).items()}


def mean(runs: Runs, cost: str | None = None) -> float:
    """Mean test accuracy, or mean of a cost."""
    return statistics.fmean(run["costs"][cost] if cost else run["test_accuracy"] for run in runs)


def accuracies(runs: Runs) -> list[float]:
    """Test accuracies, seed by seed."""
    return [run["test_accuracy"] for run in runs]


def merges(runs: Runs) -> int:
    """How often workers were merged: each time every rank sums the net's weights once."""
    report = runs[0].get("warm_start") or {"rounds": [], "workers": []}
    return len(report["rounds"]) if len(report["workers"]) > 1 else 0


def compared(one: Runs, other: Runs) -> str:
    """A difference of means in points, and whether it is more than one pooled deviation."""
    difference = 100 * (mean(one) - mean(other))
    if min(len(one), len(other)) < 2:
        return f"{difference:+.1f} (one seed)"
    pooled = 100 * math.sqrt(
        (statistics.variance(accuracies(one)) + statistics.variance(accuracies(other))) / 2
    )
    beyond = "beyond" if abs(difference) > pooled else "within"
    digits = 2 if f"{abs(difference):.1f}" == f"{pooled:.1f}" else 1  # which one is larger shows
    return f"{difference:+.{digits}f} ({beyond} one pooled deviation, {pooled:.{digits}f})"


def heading(name: str, results: dict[str, Any], part: int = 0) -> str:
    """The set and its seeds, above a table."""
    seeds = len({run["seed"] for run in results["parts"][part]["runs"]})
    return f"{name}, {seeds} seed{'s' * (seeds > 1)}.\n\n"


def costs_table(results: dict[str, Any], part: int = 0) -> str:
    """Every method of a part with a single fraction: accuracy, and what it spent."""
    rows = [
        [
            runs[0]["label"],
            spread(accuracies(runs)),
            f"{mean(runs, 'warmup_critical_passes'):,.0f}",
            f"{mean(runs, 'warmup_passes'):,.0f}",
            f"{merges(runs)}",
            f"{mean(runs, 'critical_passes'):,.0f}",
            f"{mean(runs, 'passes'):,.0f}",
        ]
        for runs in runs_of(results, part).values()
    ]
    head = (
        "Method", "Test accuracy, %", "Warm-up passes, critical path", "in all", "Merges",
        "All passes, critical path", "in all",
    )  # fmt: skip
    return markdown(head, rows)


def costs_of(question: str) -> str:
    """Accuracy and costs of every method that a question was asked of, set by set."""
    return "\n".join(
        heading(name, results) + costs_table(results) + origin(results)
        for name, results in asked(question)
    )


def tax() -> str:
    """The warm-up's critical path, at the accuracy of what follows."""
    return costs_of("warm-up")


def tax_reading() -> str:
    """What the shorter warm-up costs or gains, in sentences."""
    sentences, cost = [], "warmup_critical_passes"
    for name, results in asked("warm-up"):
        runs = by_method(results)
        lipt, full, alone = (
            runs[f"{warm}+rs2"] for warm in ("lipt", "full=10", "one-worker-annealed")
        )
        sentences.append(
            f"{name}, then fresh random subsets: `warm_start: lipt` makes "
            f"{mean(full, cost) / mean(lipt, cost):.1f} times fewer warm-up passes on the critical "
            f"path than 10 full epochs (in all, "
            f"{mean(lipt, 'warmup_passes') / mean(full, 'warmup_passes'):.2f} times as many), and "
            f"ends {compared(lipt, full)} points from it. Against one worker with "
            f"{mean(alone, cost):,.0f} passes: {compared(lipt, alone)} points."
        )
    return " ".join(sentences) + "\n"


def end_to_end_passes() -> str:
    """Training on all data against LiPT in rounds and RS2, passes at equal accuracy."""
    text = ""
    for name, results in asked("end-to-end"):
        rows, ladder = [], full_ladder(results)
        for (method, _), runs in all_runs(results):
            equal = passes_for(ladder, mean(runs))
            critical = mean(runs, "critical_passes")
            times = "-" if equal is None else f"{equal / critical:.1f}"
            rows.append(
                [
                    runs[0]["label"],
                    spread(accuracies(runs)),
                    f"{critical:,.0f}",
                    f"{mean(runs, 'passes'):,.0f}",
                    f"{merges(runs)}",
                    "1" if method == "full-data" else times,
                ]
            )
        head = (
            "Method", "Test accuracy, %", "Passes, critical path", "in all", "Merges",
            "Passes of all-data training at its accuracy, over its critical path",
        )  # fmt: skip
        text += heading(name, results) + markdown(head, rows) + origin(results) + "\n"
    return text


def all_runs(results: dict[str, Any]) -> list[tuple[tuple[str, float], Runs]]:
    """The runs of all parts by method and fraction."""
    parts = range(len(results["parts"]))
    return [found for part in parts for found in runs_of(results, part).items()]


def full_ladder(results: dict[str, Any]) -> list[tuple[float, float]]:
    """(accuracy, passes) of training on all data, from short to long."""
    steps = [
        (mean(runs), mean(runs, "passes"))
        for (method, _), runs in all_runs(results)
        if method == "full-data"
    ]
    return sorted(steps, key=lambda step: step[1])


def passes_for(ladder: list[tuple[float, float]], accuracy: float) -> float | None:
    """Passes at which training on all data has an accuracy; None off the ends of the ladder.

    Between two lengths that were run, along the logarithm of the passes.
    """
    best: list[tuple[float, float]] = []
    for reached, passes in ladder:  # a longer run that is no better is no step up
        if not best or reached > best[-1][0]:
            best.append((reached, passes))
    for (low, few), (high, many) in itertools.pairwise(best):
        if low <= accuracy <= high:
            return float(few * (many / few) ** ((accuracy - low) / (high - low)))
    return None


def ratios(results: dict[str, Any], method: str) -> list[tuple[float, float, Runs]]:
    """What all-data training needs for a method's accuracy, one for each of its lengths.

    Over the method's critical path; and the method's passes in all over it.
    """
    ladder, found = full_ladder(results), []
    for (name, _), runs in all_runs(results):
        equal = passes_for(ladder, mean(runs))
        if name == method and equal is not None:
            critical, passes = mean(runs, "critical_passes"), mean(runs, "passes")
            found.append((equal / critical, passes / equal, runs))
    return found


def end_to_end_passes_reading() -> str:
    """How much shorter the critical path is at equal accuracy."""
    sentences = []
    for name, results in asked("end-to-end"):
        for method, words in (("lipt-rounds+rs2", "LiPT in rounds, then RS2"), ("rs2", "RS2")):
            found = ratios(results, method)
            if not found:
                sentences.append(
                    f"{name}: no length of {words} has an accuracy between those of the "
                    "all-data runs."
                )
            for ratio, total, runs in found:
                sentences.append(
                    f"{name}: {words} reaches {100 * mean(runs):.1f} % with {times(ratio)} passes "
                    "on the critical path than training on all data needs for it "
                    f"({total:.2f} times as many in all)."
                )
    return " ".join(sentences) + "\n"


def equal_total() -> str:
    """Everybody spends the same passes in all."""
    return costs_of("budget")


def equal_total_reading() -> str:
    """Which method wins at equal passes."""
    sentences = []
    for name, results in asked("budget"):
        runs = by_method(results)
        mine = [rows for method, rows in runs.items() if method.startswith("lipt")]
        best = max(mine, key=mean)
        sentences.append(
            f"{name}: the best with LiPT is {best[0]['label']}, {compared(best, runs['rs2'])} "
            f"points from RS2 and {compared(best, runs['one-worker+rs2'])} from RS2 after one "
            "worker."
        )
    return " ".join(sentences) + "\n"


def report_build() -> str:
    """Time and size of a whole report."""
    results = load("report_build")
    runs = len(results["methods"]) * len(results["fractions"]) * results["seeds"]
    return (
        f"A report of {runs} runs with {results['figures']} figures took "
        f"{results['median_seconds']:.1f} s to build (median of {len(results['seconds'])}, the "
        f"program's start included) and is {results['bytes'] / 1e6:.1f} MB large.\n"
        + origin(results)
    )


QUESTIONS = (
    report_build, tax, tax_reading, end_to_end_passes, end_to_end_passes_reading, equal_total,
    equal_total_reading,
)  # fmt: skip
