"""What the subsets were like: how they changed, what they hold, and the warm start's signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lipt_cords.experiments.report.curves import Figure
from lipt_cords.experiments.report.results import Results
from lipt_cords.experiments.report.svg import (
    INK,
    MUTED,
    SERIES,
    colour_of,
    figure,
    log_axis,
    svg_of,
)

PANELS = (
    ("rank_correlation", "Halves of the workers agree on which samples are hard (rank corr.)"),
    ("class_cosine", "Workers' class gradients point alike (cosine)"),
    ("merged_loss", "Held-out loss of the merged model"),
    ("benefit", "Its fall over the last quarter of the path"),
)
"""What is measured of a warm start after each round, and how it is called."""


MOST_CLASSES = 12
"""Classes that fit beside each other with their shares."""


def has_rounds(report: Mapping[str, Any] | None) -> bool:
    """Whether a warm start's report, as a mapping, has measured rounds to draw."""
    rounds = (report or {}).get("rounds", [])
    return sum(one["stability"] is not None for one in rounds) > 1


def signal_figures(reports: Sequence[tuple[int, Mapping[str, Any]]]) -> Iterator[Figure]:
    """What the workers' spread said after each round, a figure a signal.

    Args:
        reports: warm starts' reports as mappings, each with the place of its method.
    """
    for name, title in PANELS:
        with figure(4.0, 2.6) as (drawn, axis):
            some = False
            for place, report in reports:
                points = [
                    (one["critical_path_passes"], one["stability"][name])
                    for one in report["rounds"]
                    if one["stability"] is not None and one["stability"].get(name) is not None
                ]
                if points:
                    x, y = zip(*points, strict=True)
                    colour, dashes = colour_of(place)
                    axis.plot(x, y, "o", linestyle=dashes, color=colour, markersize=3, alpha=0.8)
                    some = True
            if not some:
                continue
            log_axis(axis)
            axis.set_xlabel("Sample-passes, critical path")
            file = f"signal-{name.replace('_', '-')}"
            yield Figure(file, title, svg_of(drawn, file, title))


def overlap_figure(results: Results, fraction: float | None) -> Figure | None:
    """How much of a subset the one before it held, a row a method; None if none was re-selected.

    Small dots are re-selections (means over seeds), the large one is their mean, and the dotted
    line is what two independent random subsets share.
    """
    rows, share = [], 0.0
    for place, method in enumerate(results.methods):
        kept = [one for one in _subsets(results, method, fraction) if one["overlaps"]]
        if kept:
            steps = min(len(one["overlaps"]) for one in kept)
            means = [
                sum(one["overlaps"][step] for one in kept) / len(kept) for step in range(steps)
            ]
            rows.append((place, means))
            share = kept[0]["size"] / kept[0]["pool"]
    if not rows:
        return None
    title = "How much of a subset the one before it held (dotted: by chance)"
    with _method_rows(results, rows) as (drawn, axis):
        axis.axvline(share / (2 - share), color=MUTED, linewidth=1, linestyle=":")
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel("Jaccard index with the one before; large: the mean")
        svg = svg_of(drawn, "overlap", title)
    return Figure("overlap", title, svg)


def balance_figure(results: Results, fraction: float | None) -> Figure | None:
    """The share of every class in the last subset over its share in the pool, a row a method.

    A few classes are a table in colours, many are dots.
    """
    rows, names = [], []
    for place, method in enumerate(results.methods):
        kept = _subsets(results, method, fraction)
        if kept:
            names = kept[0]["class_names"]
            rows.append((place, _ratios([k for k in kept if len(k["class_names"]) == len(names)])))
    rows = [(place, ratios) for place, ratios in rows if len(ratios) == len(names)]
    if not rows:
        return None
    title = "Class shares of the last subset, over those of the pool"
    if len(names) <= MOST_CLASSES:
        svg = _class_table(results, rows, names, title)
    else:
        with _method_rows(results, rows) as (drawn, axis):
            axis.axvline(1, color=MUTED, linewidth=1, linestyle=":")
            axis.set_xlim(left=0)
            axis.set_xlabel("Share in the subset / in the pool, a dot a class")
            svg = svg_of(drawn, "balance", title)
    return Figure("balance", title, svg)


def _subsets(results: Results, method: str, fraction: float | None) -> list[Mapping[str, Any]]:
    runs = results.runs_of(method, fraction)
    return [run["subsets"] for run in runs if run.get("subsets")]


def _ratios(kept: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of every class, its share in the subset over that in the pool, a mean over seeds."""
    return [
        sum(
            one["class_counts"][label] * one["pool"]
            / max(1, one["pool_class_counts"][label] * one["size"])
            for one in kept
        ) / len(kept)
        for label in range(len(kept[0]["class_names"]))
    ]  # fmt: skip


@contextmanager
def _method_rows(
    results: Results, rows: Sequence[tuple[int, Sequence[float]]]
) -> Iterator[tuple[Any, Any]]:
    """Dots of every method on a line of its own, its name above: nine curves hide each other."""
    labels = list(results.methods.values())
    with figure(4.6, 0.75 + 0.4 * len(rows), left=0.1) as (drawn, axis):
        for row, (place, values) in enumerate(rows):
            colour, _ = colour_of(place)
            axis.plot(values, [row] * len(values), "o", color=colour, markersize=3, alpha=0.5)
            axis.plot([sum(values) / len(values)], [row], "o", color=colour, markersize=7)
            axis.text(0, row - 0.3, labels[place], ha="left", va="bottom", color=INK)
        axis.set_ylim(len(rows) - 0.5, -0.9)
        axis.set_yticks([])
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        yield drawn, axis


def _class_table(
    results: Results,
    rows: Sequence[tuple[int, Sequence[float]]],
    names: Sequence[str],
    title: str,
) -> str:
    """A row a method, a column a class; the colour is how far a share is from the pool's."""
    labels = list(results.methods.values())
    with figure(4.6, 0.85 + 0.44 * len(rows), left=0.1, bottom=0.75) as (drawn, axis):
        from matplotlib.patches import Rectangle

        for row, (place, ratios) in enumerate(rows):
            axis.text(0, row, labels[place], ha="left", va="bottom", color=INK)
            for column, ratio in enumerate(ratios):
                colour, far = SERIES[ratio < 1], min(1.0, abs(ratio - 1))
                # One colour and its opacity: it is read on a light page and on a dark one.
                axis.add_patch(
                    Rectangle((column, row), 1, 0.5, facecolor=colour, alpha=0.5 * far, linewidth=0)
                )
                axis.text(
                    column + 0.5, row + 0.26, f"{ratio:.1f}", ha="center", va="center",
                    fontsize=8, color=INK,
                )  # fmt: skip
        turned = max(map(len, names)) > 2
        axis.set_xticks(
            [column + 0.5 for column in range(len(names))],
            [name if len(name) <= 12 else f"{name[:11]}…" for name in names],
            rotation=45 if turned else 0, ha="right" if turned else "center",
        )  # fmt: skip
        axis.set_xlim(0, len(names))
        axis.set_ylim(len(rows) - 0.4, -0.5)
        axis.set_yticks([])
        axis.grid(False)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("Class")
        return svg_of(drawn, "balance", title)
