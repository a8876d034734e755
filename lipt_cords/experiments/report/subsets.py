"""What the subsets were like: how they changed, what they hold, and the warm start's signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lipt_cords.experiments.report.curves import Figure
from lipt_cords.experiments.report.results import Results
from lipt_cords.experiments.report.svg import MUTED, colour_of, figure, log_axis, svg_of

PANELS = (
    ("rank_correlation", "Halves of the workers agree on which samples are hard (rank corr.)"),
    ("class_cosine", "Workers' class gradients point alike (cosine)"),
    ("merged_loss", "Held-out loss of the merged model"),
    ("benefit", "Its fall over the last quarter of the path"),
)
"""What is measured of a warm start after each round, and how it is called."""


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
    """How much of a subset the one before it held, over the epochs; None if none was re-selected.

    Means over seeds; the dotted line is what two independent random subsets share.
    """
    with figure(4.0, 2.9) as (drawn, axis):
        share = None
        for place, method in enumerate(results.methods):
            runs = results.runs_of(method, fraction)
            kept = [run["subsets"] for run in runs if (run.get("subsets") or {}).get("overlaps")]
            if not kept:
                continue
            steps = min(len(one["overlaps"]) for one in kept)
            x = kept[0]["epochs"][1 : 1 + steps]
            y = [sum(one["overlaps"][step] for one in kept) / len(kept) for step in range(steps)]
            colour, dashes = colour_of(place)
            marker = "o" if steps < 40 else None
            axis.plot(x, y, marker=marker, linestyle=dashes, color=colour, markersize=3)
            share = kept[0]["size"] / kept[0]["pool"]
        if share is None:
            return None
        axis.axhline(share / (2 - share), color=MUTED, linewidth=1, linestyle=":")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("Epoch")
        axis.set_ylabel("Jaccard index with the one before")
        svg = svg_of(drawn, "overlap", "How much of a subset the one before it held")
    return Figure("overlap", "How much of a subset the one before it held (dotted: by chance)", svg)


def balance_figure(results: Results, fraction: float | None) -> Figure | None:
    """The share of every class in the last subset over its share in the pool."""
    with figure(4.0, 2.9) as (drawn, axis):
        names: list[str] = []
        for place, method in enumerate(results.methods):
            runs = results.runs_of(method, fraction)
            kept = [run["subsets"] for run in runs if run.get("subsets")]
            if not kept:
                continue
            names = kept[0]["class_names"]
            kept = [one for one in kept if len(one["class_names"]) == len(names)]
            ratios = [
                sum(
                    one["class_counts"][label] * one["pool"]
                    / max(1, one["pool_class_counts"][label] * one["size"])
                    for one in kept
                ) / len(kept)
                for label in range(len(names))
            ]  # fmt: skip
            colour, dashes = colour_of(place)
            axis.plot(range(len(names)), ratios, "o", linestyle=dashes, color=colour, markersize=3)
        if not names:
            return None
        short = len(names) <= 12 and max(map(len, names)) <= 12
        if short:
            turned = max(map(len, names)) > 2
            axis.set_xticks(
                range(len(names)), names, rotation=45 if turned else 0,
                ha="right" if turned else "center",
            )  # fmt: skip
        axis.axhline(1, color=MUTED, linewidth=1, linestyle=":")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("Class")
        axis.set_ylabel("Share in the subset / in the pool")
        svg = svg_of(drawn, "balance", "Class shares of the last subset, over the pool's")
    return Figure("balance", "Class shares of the last subset, over those of the pool", svg)
