"""Tables of rivals: batches chosen within a budget, and wrong labels found by training."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.parts import load, markdown, origin, results_of, spread
from benchmarks.tables.question import pooled_deviation

Row = dict[str, Any]


def compute_budget() -> str:
    """Accuracy of batches chosen while training, at equal operations."""
    found = results_of("compute_budget")
    table: dict[str, list[str]] = {}
    head = ["Batches"]
    for name, results in found:
        shares = sorted({row["share"] for row in results["rows"]})
        methods = list(dict.fromkeys(row["method"] for row in results["rows"]))
        for method in methods:
            mine = [row for row in results["rows"] if row["method"] == method]
            passes, seconds = (
                statistics.fmean(row[part] for row in mine)
                for part in ("trained_passes", "cpu_seconds")
            )
            table.setdefault(method, []).extend(
                [
                    *(_accuracy(results["rows"], method, one, methods[0]) for one in shares),
                    f"{passes:,.0f}", f"{seconds:.0f}",
                ]
            )  # fmt: skip
        head += [f"{name}, {100 * one:.0f} % wrong, %" for one in shares]
        head += ["Trained passes", "Seconds"]
    text = markdown(head, [[method, *cells] for method, cells in table.items()])
    return _seeds(found) + text + origin(*(results for _, results in found))


def _accuracy(rows: list[Row], method: str, share: float, plain: str) -> str:
    """Mean and deviation, bold if ahead of random batches by more than a pooled deviation."""
    mine, theirs = (
        [row["accuracy"] for row in rows if (row["method"], row["share"]) == (one, share)]
        for one in (method, plain)
    )
    if method == plain or min(len(mine), len(theirs)) < 2:
        return spread(mine)
    difference = statistics.fmean(mine) - statistics.fmean(theirs)
    bold = "**" if difference > pooled_deviation(mine, theirs) else ""
    return f"{bold}{spread(mine)}{bold}"


def label_rivals() -> str:
    """AUROC of wrong labels, of the closed form and of what is trained, by its better score."""
    found = results_of("label_rivals")
    table: dict[str, list[str]] = {}
    head, passes = ["By"], dict[str, float]()
    for name, results in found:
        shares = sorted({row["share"] for row in results["rows"]})
        drawn = {(row["share"], row["seed"]) for row in results["rows"]}
        budget = load(f"compute_budget-{name}")["rows"]
        spent = max(row["preparing_passes"] for row in budget)
        closed = [
            row | {"rival": "`find_label_issues`, nothing trained", "score": "", "passes": spent}
            for row in load(f"label_issues-{name}")["rows"]
            if row["kind"] == "symmetric" and (row["share"], row["seed"]) in drawn
        ]
        every = [*closed, *results["rows"]]
        for rival in dict.fromkeys(row["rival"] for row in every):
            mine = [row for row in every if row["rival"] == rival]
            table.setdefault(rival, []).extend(_best(mine, share) for share in shares)
            most = max(row["passes"] for row in mine)
            passes[rival] = max(most, passes.get(rival, 0.0))
        head += [f"{name}, {100 * one:.0f} % wrong" for one in shares]
    rows = [[rival, *cells, f"{passes[rival]:,.0f}"] for rival, cells in table.items()]
    head.append("Passes, or operations of as many")
    return _seeds(found) + markdown(head, rows) + origin(*(results for _, results in found))


def _best(rows: list[Row], share: float) -> str:
    """The AUROC of the score with the largest mean, of one share of wrong labels."""
    scores = dict.fromkeys(row["score"] for row in rows)
    found = [
        [row["auroc"] for row in rows if (row["share"], row["score"]) == (share, score)]
        for score in scores
    ]
    best = max((one for one in found if one), key=statistics.fmean, default=None)
    return "-" if best is None else spread(best)


def _seeds(found: list[tuple[str, dict[str, Any]]]) -> str:
    counts = {len({row["seed"] for row in results["rows"]}) for _, results in found}
    return f"{' or '.join(map(str, sorted(counts)))} seeds.\n\n"


RIVALS = (compute_budget, label_rivals)
