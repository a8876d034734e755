"""The effects of the paper's tables, beside those of a small scale."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.parts import load, origin
from lipt_cords.experiments.report.summary import is_soup

Rows = list[dict[str, Any]]


def _lines(results: dict[str, Any]) -> dict[str, Rows]:
    """A table's rows by label, fraction by fraction; a soup by itself is none of them."""
    found: dict[str, Rows] = {}
    for row in results["rows"]:
        if not is_soup(row):
            found.setdefault(row["row"], []).append(row)
    return found


def _mean(row: dict[str, Any]) -> float:
    return 100 * statistics.fmean(row["accuracies"])


def _difference(ours: Rows, others: Rows) -> list[tuple[float, float, float]]:
    """(fraction, our difference in points, the paper's) at the fractions that both have."""
    rival = {row["fraction"]: row for row in others}
    return [
        (
            row["fraction"], _mean(row) - _mean(rival[row["fraction"]]),
            row["paper"] - rival[row["fraction"]]["paper"],
        )
        for row in ours if row["fraction"] in rival
    ]  # fmt: skip


def paper_reading() -> str:
    """Each table's effect, the paper's in brackets: the difference of the two rows it is about."""
    asked = (
        ("low-fraction", "LiPT", "GLISTER", "LiPT less the full-data warm-up"),
        ("low-fraction", "the preset", "GLISTER", "the preset `lipt` less the full-data warm-up"),
        ("soup", "greedy", "all", "the greedy soup less all workers"),
        ("pruning", "magnitude", "random", "magnitude pruning less random pruning"),
        ("ablation", "all three", "merging", "pruning and augmentation less merging alone"),
    )
    sentences, found = [], dict[str, dict[str, Any]]()
    for table, ours, other, words in asked:
        found[table] = load(f"paper-{table}")
        lines = _lines(found[table])
        parts = [
            f"{100 * fraction:g} %: {mine:+.1f} ({theirs:+.1f})"
            for fraction, mine, theirs in _difference(lines[ours], lines[other])
        ]
        sentences.append(f"- `{table}`, {words}: {'; '.join(parts)}.\n")
    results = found["speedup"] = load("paper-speedup")
    methods = {row["method"]: row for row in results["rows"]}
    full = methods["full"]
    parts = [
        f"{full['warmup_critical_passes'] / methods[name]['warmup_critical_passes']:.1f}x "
        f"{words}, {_mean(methods[name]) - _mean(full):+.1f} points"
        for name, words in (("lipt", "with one merge"), ("lipt-rounds", "in rounds"))
    ]
    sentences.append(
        f"- `speedup`, critical path of the warm-up against full data "
        f"({results['paper']['warm-up']:g}x at equal accuracy): {'; '.join(parts)}.\n"
    )
    differs = "; ".join(dict.fromkeys(one["differs"] for one in found.values()))
    return f"{differs}.\n\n{''.join(sentences)}{origin(*found.values())}"


PAPER = (paper_reading,)
