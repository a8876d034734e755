"""Tables of benchmarks/paper.py: the paper's figures beside those of this scale."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.parts import RESULTS, load, markdown, origin, spread

Rows = list[dict[str, Any]]


def _results(table: str) -> list[dict[str, Any]]:
    """A table's committed results: of the small scale, then of a GPU's where there are any."""
    names = (f"paper-{table}", f"paper-{table}-gpu")
    return [load(name) for name in names if (RESULTS / f"{name}.json").exists()]


def _lines(results: dict[str, Any]) -> dict[tuple[str, str], Rows]:
    """A table's rows by label and method, fraction by fraction."""
    found: dict[tuple[str, str], Rows] = {}
    for row in results["rows"]:
        found.setdefault((row["row"], row["method"]), []).append(row)
    return found


def _named(label: str, row: dict[str, Any]) -> str:
    """A line's name: rivals go by their method, the paper's rows by the paper's name."""
    return str(row["label"]) if label == "rivals" else label


def _mean(row: dict[str, Any]) -> float:
    return 100 * statistics.fmean(row["accuracies"])


def _side_by_side(table: str) -> str:
    """Accuracy at every fraction, ours and the paper's."""
    text = ""
    for results in _results(table):
        fractions = sorted({row["fraction"] for row in results["rows"]})
        rows = []
        for (label, _), lines in _lines(results).items():
            by_fraction = {line["fraction"]: line for line in lines}
            cells = [_named(label, lines[0])]
            for fraction in fractions:
                line = by_fraction.get(fraction)
                paper = None if line is None else line["paper"]
                cells += [
                    "-" if line is None else spread(line["accuracies"]),
                    "-" if paper is None else f"{paper:.1f}",
                ]
            rows.append(cells)
        head = ["Row"]
        for fraction in fractions:
            head += [f"{100 * fraction:g} %, here", "paper"]
        text += f"{results['differs']}. {results['settings']['seeds']} seeds.\n\n"
        text += markdown(head, rows) + origin(results)
    return text


def paper_low_fraction() -> str:
    """GLISTER after a full-data warm-up and after LiPT."""
    return _side_by_side("low-fraction")


def paper_soup() -> str:
    """All workers averaged, or chosen greedily."""
    return _side_by_side("soup")


def paper_pruning() -> str:
    """How workers are pruned."""
    return _side_by_side("pruning")


def paper_ablation() -> str:
    """Merging, pruning and augmentation."""
    return _side_by_side("ablation")


def paper_speedup() -> str:
    """What warm-ups cost, and what they are worth."""
    text = ""
    for results in _results("speedup"):
        rows = [
            [
                row["label"],
                spread(row["accuracies"]),
                f"{row['warmup_critical_passes']:,.0f}",
                f"{row['warmup_passes']:,.0f}",
                f"{row['critical_passes']:,.0f}",
            ]
            for row in results["rows"]
        ]
        head = (
            "Method", "Test accuracy, %", "Warm-up passes, critical path", "in all",
            "All passes, critical path",
        )  # fmt: skip
        text += f"{results['differs']}. {results['settings']['seeds']} seeds.\n\n"
        text += markdown(head, rows) + origin(results)
    return text


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
        ("soup", "greedy", "all", "the greedy soup less all workers"),
        ("pruning", "magnitude", "random", "magnitude pruning less random pruning"),
        ("ablation", "all three", "merging", "pruning and augmentation less merging alone"),
    )
    sentences = []
    for table, ours, other, words in asked:
        for results in _results(table)[:1]:
            lines = {label: rows for (label, _), rows in _lines(results).items()}
            parts = [
                f"{100 * fraction:g} %: {mine:+.1f} ({theirs:+.1f})"
                for fraction, mine, theirs in _difference(lines[ours], lines[other])
            ]
            sentences.append(f"- `{table}`, {words}: {'; '.join(parts)}.\n")
    for results in _results("speedup")[:1]:
        lines = {row["method"]: row for row in results["rows"]}
        full = lines["full"]
        parts = [
            f"{full['warmup_critical_passes'] / lines[name]['warmup_critical_passes']:.1f}x "
            f"{words}, {_mean(lines[name]) - _mean(full):+.1f} points"
            for name, words in (("lipt", "with one merge"), ("lipt-rounds", "in rounds"))
        ]
        sentences.append(
            f"- `speedup`, critical path of the warm-up against full data "
            f"({results['paper']['warm-up']:g}x at equal accuracy): {'; '.join(parts)}.\n"
        )
    return "".join(sentences)


PAPER = (
    paper_low_fraction, paper_soup, paper_pruning, paper_ablation, paper_speedup, paper_reading,
)  # fmt: skip
