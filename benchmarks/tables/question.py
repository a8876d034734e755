"""Tables of benchmarks/evidence.py: what each question's comparison found, win or lose."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.tables.parts import markdown, origin_of, results_of, spread
from lipt_cords.experiments.report.summary import accuracy_text, is_soup

SELECTORS = ("glister", "gradmatch", "craig")
Runs = list[dict[str, Any]]


def asked(question: str) -> list[tuple[str, dict[str, Any]]]:
    """The committed results of a question, set by set."""
    return results_of(f"evidence-{question}")


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


def pooled_deviation(one: Sequence[float], other: Sequence[float]) -> float:
    """The deviation of two groups of seeds of equal size."""
    return math.sqrt((statistics.variance(one) + statistics.variance(other)) / 2)


def compared(one: Runs, other: Runs) -> str:
    """A difference of means in points, and one pooled deviation."""
    difference = 100 * (mean(one) - mean(other))
    if min(len(one), len(other)) < 2:
        return f"{difference:+.1f} (one seed)"
    pooled = 100 * pooled_deviation(accuracies(one), accuracies(other))
    digits = 2 if f"{abs(difference):.1f}" == f"{pooled:.1f}" else 1  # which one is larger shows
    return f"{difference:+.{digits}f} ({pooled:.{digits}f})"


def heading(name: str, results: dict[str, Any]) -> str:
    """The set and its seeds, above a table."""
    return f"{name}, {seeds_of(results)}"


def seeds_of(results: dict[str, Any]) -> str:
    """How many seeds there are, above a table."""
    seeds = len({run["seed"] for run in results["parts"][0]["runs"]})
    return f"{seeds} seed{'s' * (seeds > 1)}.\n\n"


def warm_up() -> str:
    """Accuracy of training on a tenth of the data, after full epochs and after the preset."""
    text, cost = "", "warmup_critical_passes"
    for name, results in asked("warm-up"):
        rows, runs = [], by_method(results)
        for kind in ("rs2", *SELECTORS):
            epochs = 10 if kind == "rs2" else 8
            rival, mine = runs[f"full={epochs}+{kind}"], runs[f"lipt+{kind}"]
            rows.append(
                [
                    mine[0]["label"].partition(" ")[0],
                    f"{epochs}",
                    spread(accuracies(rival)),
                    spread(accuracies(mine)),
                    compared(mine, rival),
                    f"{mean(rival, cost) / mean(mine, cost):.1f}",
                ]
            )
        head = (
            "Then", "Full epochs", "After them, %", "After LiPT, %",
            "Difference, points (deviation)", "Critical path, times shorter",
        )  # fmt: skip
        mine, alone = runs["lipt+rs2"], runs["one-worker-annealed+rs2"]
        text += heading(name, results) + markdown(head, rows)
        text += (
            f"\nLiPT's warm-up: {mean(mine, cost):,.0f} passes on the critical path, "
            f"{mean(mine, 'warmup_passes'):,.0f} in all, {merges(mine)} merges. RS2 with no "
            f"warm-up: {spread(accuracies(runs['rs2']))} %; after one annealed worker of LiPT's "
            f"critical path: {spread(accuracies(alone))} %; a random subset after LiPT: "
            f"{spread(accuracies(runs['lipt+random']))} %.\n"
        )
        text += "\n"
    return text + origin_of(asked("warm-up"))


def end_to_end_passes() -> str:
    """Training on all data against LiPT alone and with RS2, passes at equal accuracy."""
    found, rows = asked("end-to-end"), {}
    head = ["Method", "Passes, critical path", "in all"]
    for name, results in found:
        ladder = full_ladder(results)
        lines = [
            ("LiPT alone", soup["accuracy"], soup["critical_passes"], soup["passes"],
             accuracy_text(soup), ladder)
            for soup in soups_of(results, 0)
        ]  # fmt: skip
        lines += [
            (runs[0]["label"], mean(runs), mean(runs, "critical_passes"), mean(runs, "passes"),
             spread(accuracies(runs)), [] if method == "full-data" else ladder)
            for (method, _), runs in all_runs(results)
        ]  # fmt: skip
        for label, accuracy, critical, passes, told, steps in lines:
            spent = (f"{critical:,.0f}", f"{passes:,.0f}")
            row = rows.setdefault((label, *spent), [label, *spent])
            row += [told, *_against_all_data(steps, accuracy, critical, passes)]
        head += [f"{name}, %", "Path, times shorter than all data's", "Passes, over all data's"]
    return seeds_of(found[0][1]) + markdown(head, list(rows.values())) + "\n" + origin_of(found)


def _against_all_data(
    ladder: list[tuple[float, float]], accuracy: float, critical: float, passes: float
) -> tuple[str, str]:
    """How passes compare with those of all data for the same accuracy."""
    if not ladder or (found := passes_to_reach(ladder, accuracy)) is None:
        return "-", "-"
    equal, bound = found
    above, below = ("> ", "< ") if bound else ("", "")
    return f"{above}{equal / critical:.1f}", f"{below}{passes / equal:.2f}"


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


def passes_to_reach(
    ladder: list[tuple[float, float]], accuracy: float
) -> tuple[float, bool] | None:
    """Passes of training on all data for an accuracy, and whether they are only a lower bound.

    They are where the accuracy is above that of every length that was run: then those of the best.
    None below every length.
    """
    equal = passes_for(ladder, accuracy)
    if equal is not None:
        return equal, False
    most, passes = max(ladder)
    return (passes, True) if accuracy > most else None


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


def soups_of(results: dict[str, Any], part: int) -> list[dict[str, Any]]:
    """The summary of LiPT's soup by itself, before any training on a subset, if it is told."""
    return [row for row in results["parts"][part]["summary"] if is_soup(row)][:1]


def equal_total() -> str:
    """Everybody spends the same passes; LiPT alone as well."""
    found, rows = asked("budget"), {}
    for _, results in found:
        (alone,) = soups_of(results, 1)
        lines = [
            (runs[0]["label"], rate, mean(runs, "warmup_passes"), spread(accuracies(runs)))
            for part, rate in ((0, "`wsd`"), (2, "cosine"))
            for runs in by_method(results, part).values()
        ]
        lines.insert(-2, ("LiPT alone", "`wsd`", alone["passes"], accuracy_text(alone)))
        for label, rate, passes, accuracy in lines:
            row = rows.setdefault((label, rate), [label, rate, f"{passes:,.0f}"])
            row.append(accuracy)
    head = ("Method", "Rate", "Passes of the warm-up", *(f"{name}, %" for name, _ in found))
    return seeds_of(found[0][1]) + markdown(head, list(rows.values())) + "\n" + origin_of(found)


def tax() -> str:
    """RS2 on a tenth after the preset, after half of it, and after full epochs."""
    return _after_warm_ups("tax")


def faster() -> str:
    """The same with a higher rate in the workers."""
    return _after_warm_ups("faster")


def _after_warm_ups(question: str) -> str:
    found, rows = asked(question), {}
    for _, results in found:
        full = by_method(results)["full=10+rs2"]
        named = [
            (runs[0]["label"] + ", half of the path" * (part == 1), runs)
            for part in range(len(results["parts"]))
            for method, runs in by_method(results, part).items()
            if method != "full=10+rs2"
        ]
        for label, runs in [*named, (full[0]["label"], full)]:
            spent = (mean(runs, "warmup_critical_passes"), mean(runs, "warmup_passes"))
            row = rows.setdefault(label, [label, *(f"{passes:,.0f}" for passes in spent)])
            row += [spread(accuracies(runs)), "-" if runs is full else compared(runs, full)]
    head = ["Method", "Warm-up, critical path", "in all"]
    for name, _ in found:
        head += [f"{name}, %", "Against 10 epochs, points (deviation)"]
    return seeds_of(found[0][1]) + markdown(head, list(rows.values())) + "\n" + origin_of(found)


QUESTIONS = (warm_up, tax, faster, end_to_end_passes, equal_total)
