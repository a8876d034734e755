"""README's table: every question with its answer, whatever it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.tables.choose import above_random, fractions_of, measured, share_of_training
from benchmarks.tables.fixed import signed
from benchmarks.tables.parts import markdown
from benchmarks.tables.question import (
    SELECTORS,
    Runs,
    accuracies,
    all_runs,
    asked,
    by_method,
    full_ladder,
    mean,
    passes_to_reach,
    pooled_deviation,
    soups_of,
)
from benchmarks.tables.wrong_labels import trained_with_wrong_labels

NAMES = {"cifar10-jpeg": "CIFAR-10 (JPEG)", "fashion-mnist": "Fashion-MNIST"}
LABELS = {"glister": "GLISTER", "gradmatch": "GradMatch", "craig": "CRAIG"}
PATH = "warmup_critical_passes"


def headline() -> str:
    """Questions, and what came out on both sets."""
    questions: list[tuple[str, dict[str, dict[str, Any]], Callable[[Any], str]]] = [
        ("`choose_subset` against a random subset of equal size", dict(measured()), _chosen),
        (
            "40 % of the labels wrong, a tenth: `choose_subset` without suspects against random; "
            "RS2 on the cleaned pool against RS2",
            dict(trained_with_wrong_labels()),
            _wrong,
        ),
        (
            "GLISTER, GradMatch, CRAIG after `warm_start: lipt` against after 8 full epochs",
            dict(asked("warm-up")),
            _selectors,
        ),
        (
            "RS2 after `warm_start: {type: lipt, lr: 0.05}` against after full epochs, all with "
            "Muon",
            dict(asked("faster")),
            _tax,
        ),
        (
            "LiPT, alone or before RS2, against training on all data to equal accuracy, with Muon",
            dict(asked("end-to-end")),
            _end_to_end,
        ),
        (
            "RS2, and LiPT in one process, against training on all data, equal passes of Muon",
            dict(asked("budget")),
            _budget,
        ),
    ]
    rows = [
        [question, *(tell(found[name]) if name in found else "-" for name in NAMES)]
        for question, found, tell in questions if found
    ]  # fmt: skip
    return markdown(("Question", *NAMES.values()), rows).replace("---:", "---")


def between(values: Sequence[float], form: str = ".1f") -> str:
    """The least and the most."""
    least, most = (format(one, form) for one in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def briefly(one: Runs, other: Runs) -> str:
    """A difference of means in points, and the pooled deviation of the seeds."""
    pooled = pooled_deviation(accuracies(one), accuracies(other))
    return told(mean(one) - mean(other), pooled)


def told(difference: float, pooled: float) -> str:
    """A difference in points, and its deviation."""
    difference, pooled = 100 * difference, 100 * pooled
    shown = f"{abs(difference):.1f}"
    digits = 2 if shown in ("0.0", f"{pooled:.1f}") else 1  # its sign, or which one is larger
    return f"{difference:+.{digits}f} (deviation {pooled:.{digits}f})"


def _chosen(results: dict[str, Any]) -> str:
    fractions = fractions_of(results)
    gained = "; ".join(
        f"{100 * fraction:.0f} %: {signed(above_random(results, fraction))}"
        for fraction in fractions
    )
    shares = [100 * share_of_training(results, fraction) for fraction in fractions]
    return f"{gained} points, for {between(shares, '.0f')} % of one training's time"


def _wrong(results: dict[str, Any]) -> str:
    def gained(method: str, rival: str) -> str:
        one, other = (
            [
                row["accuracy"] for row in results["rows"]
                if (row["method"], row["kind"], row["share"]) == (name, "symmetric", 0.4)
            ]
            for name in (method, rival)
        )  # fmt: skip
        return signed([a - b for a, b in zip(one, other, strict=True)])

    fixed, fresh = (
        gained("chosen without suspects", "random"),
        gained("RS2 on the cleaned pool", "RS2"),
    )
    return f"{fixed} points; RS2: {fresh}"


def _selectors(results: dict[str, Any]) -> str:
    runs = by_method(results)
    shorter = [
        mean(runs[f"full=8+{kind}"], PATH) / mean(runs[f"lipt+{kind}"], PATH) for kind in SELECTORS
    ]
    parts = [
        f"{LABELS[kind]} {briefly(runs[f'lipt+{kind}'], runs[f'full=8+{kind}'])}"
        for kind in SELECTORS
    ]
    return f"{'; '.join(parts)} points, for {between(shorter)} times less waiting"


def _tax(results: dict[str, Any]) -> str:
    runs = by_method(results)
    lipt = runs["lipt+rs2"]
    rivals = {epochs: runs[f"full={epochs}+rs2"] for epochs in (10, 5)}
    return "; ".join(
        f"{epochs} epochs: {briefly(lipt, full)} points, for "
        f"{mean(full, PATH) / mean(lipt, PATH):.1f} times less waiting"
        for epochs, full in rivals.items()
    )


def _end_to_end(results: dict[str, Any]) -> str:
    alone = [
        (one["accuracy"], one["critical_passes"], one["passes"]) for one in soups_of(results, 0)
    ]
    then = [
        (mean(runs), mean(runs, "critical_passes"), mean(runs, "passes"))
        for (name, _), runs in all_runs(results) if name == "lipt+rs2"
    ]  # fmt: skip
    told = [
        f"{name} {_to_equal_accuracy(results, reached)}"
        for name, reached in (("alone", alone), ("before RS2", then)) if reached
    ]  # fmt: skip
    return "; ".join(told)


def _to_equal_accuracy(
    results: dict[str, Any], reached: Sequence[tuple[float, float, float]]
) -> str:
    """How much less waiting, and more passes, than all data for (accuracy, path, passes) each."""
    ladder, found, past = full_ladder(results), [], False
    for accuracy, critical, passes in reached:
        if (there := passes_to_reach(ladder, accuracy)) is not None:
            past = past or there[1]
            found.append((there[0] / critical, passes / there[0]))
    if not found:
        return "less accurate than every training on all data that was run"
    shorter, more = zip(*found, strict=True)
    return (
        f"{'at least ' if past else ''}{between(shorter)} times less waiting, with "
        f"{between(more)} times the passes"
    )


def _budget(results: dict[str, Any]) -> str:
    runs, (alone,) = by_method(results), soups_of(results, 1)
    full = runs["full-data"]
    pooled = math.sqrt((alone["deviation"] ** 2 + statistics.variance(accuracies(full))) / 2)
    lipt = told(alone["accuracy"] - mean(full), pooled)
    return f"RS2 {briefly(runs['rs2'], full)}; LiPT {lipt} points"
