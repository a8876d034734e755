"""Tables of rivals: batches chosen within a budget, and wrong labels found by training."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.parts import RESULTS, load, markdown, origin, spread
from benchmarks.tables.question import pooled_deviation

SETS = ("cifar10-jpeg", "fashion-mnist")

Row = dict[str, Any]


def results_of(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The committed results of a script, set by set."""
    there = [one for one in SETS if (RESULTS / f"{name}-{one}.json").exists()]
    return [(one, load(f"{name}-{one}")) for one in there]


def compute_budget() -> str:
    """Accuracy of batches chosen while training, at equal operations."""
    text = ""
    for name, results in results_of("compute_budget"):
        shares = sorted({row["share"] for row in results["rows"]})
        methods = list(dict.fromkeys(row["method"] for row in results["rows"]))
        rows = []
        for method in methods:
            mine = [row for row in results["rows"] if row["method"] == method]
            cells = [_accuracy(results["rows"], method, share, methods[0]) for share in shares]
            spent = [
                f"{statistics.fmean(row[part] for row in mine):,.0f}"
                for part in ("trained_passes", "choosing_passes", "preparing_passes", "cpu_seconds")
            ]
            rows.append([method, *cells, *spent])
        head = (
            "Batches", *(f"{100 * one:.0f} % wrong, %" for one in shares), "Passes trained on",
            "on scores", "before", "Processor seconds",
        )  # fmt: skip
        seeds = len({row["seed"] for row in results["rows"]})
        text += f"{name}, {seeds} seeds.\n\n" + markdown(head, rows) + origin(results) + "\n"
    return text


def _accuracy(rows: list[Row], method: str, share: float, plain: str) -> str:
    """Mean and deviation, and whether it is ahead of random batches by more than their own."""
    mine, theirs = (
        [row["accuracy"] for row in rows if (row["method"], row["share"]) == (one, share)]
        for one in (method, plain)
    )
    if not mine:
        return "-"
    text = spread(mine)
    if method == plain or min(len(mine), len(theirs)) < 2:
        return text
    difference = statistics.fmean(mine) - statistics.fmean(theirs)
    return f"**{text}**" if difference > pooled_deviation(mine, theirs) else text


def label_rivals() -> str:
    """AUROC of wrong labels, of the closed form and of what is trained."""
    text = ""
    for name, results in results_of("label_rivals"):
        shares = sorted({row["share"] for row in results["rows"]})
        closed = load(f"label_issues-{name}")
        drawn = {(row["share"], row["seed"]) for row in results["rows"]}
        none = [
            row | {"rival": "`find_label_issues`", "score": "", "passes": 0.0}
            for row in closed["rows"]
            if row["kind"] == "symmetric" and (row["share"], row["seed"]) in drawn
        ]
        every = [*none, *results["rows"]]
        rows = []
        for rival, score in dict.fromkeys((row["rival"], row["score"]) for row in every):
            mine = [row for row in every if (row["rival"], row["score"]) == (rival, score)]
            cells = []
            for share in shares:
                found = [row["auroc"] for row in mine if row["share"] == share]
                cells.append(spread(found) if found else "-")
            passes = statistics.fmean(row["passes"] for row in mine)
            rows.append([f"{rival}: {score}".removesuffix(": "), *cells, f"{passes:,.0f}"])
        head = ("By", *(f"{100 * one:.0f} % wrong" for one in shares), "Passes")
        seeds = len({row["seed"] for row in results["rows"]})
        text += f"{name}, {seeds} seeds.\n\n" + markdown(head, rows) + origin(results) + "\n"
    return text


RIVALS = (compute_budget, label_rivals)
