"""Accuracy against what it cost, and against how much of the data a subset holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipt_cords.experiments.report.results import Results
from lipt_cords.experiments.report.summary import percent
from lipt_cords.experiments.report.svg import PAPER, colour_of, figure, log_axis, svg_of

MOST_POINTS = 80
"""Points of a drawn curve; longer ones are thinned, their ends kept."""
COSTS = {
    "seconds": ("Seconds, as it ran here", "Wall time"),
    "passes": ("Sample-passes, all workers", "Sample-passes in all"),
    "critical_passes": ("Sample-passes, critical path", "Critical path"),
}
"""Costs by key: the axis, and the heading of its figures."""


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        name: of its file, without ending.
        title: above it.
        svg: the drawing.
    """

    name: str
    title: str
    svg: str


def cost_figures(results: Results, cost: str) -> Iterator[Figure]:
    """One figure a fraction: accuracy against a cost.

    Lines are means over seeds, bands reach from the worst seed to the best. A hollow mark is the
    end of a warm-up, a filled one the end of the run; what spends as much as LiPT is its end
    alone, a square.
    """
    places = {method: place for place, method in enumerate(results.methods)}
    for number, fraction in enumerate(results.fractions):
        title = "" if fraction is None else f"{percent(fraction)} of the data"
        name = f"accuracy-{cost.replace('_', '-')}" + ("" if fraction is None else f"-{number}")
        with figure(4.0, 2.9) as (drawn, axis):
            ends = []
            for method, place in places.items():
                runs = results.runs_of(method, fraction)
                if runs:
                    ends += _line(axis, runs, cost, place, only_end="@" in method)
            if not ends:
                continue
            _limits(axis, ends)
            axis.set_xlabel(COSTS[cost][0])
            axis.set_ylabel("Test accuracy, %")
            described = f"Test accuracy against {COSTS[cost][0].lower()}, {title or 'all methods'}"
            yield Figure(name, title, svg_of(drawn, name, described))


def _line(
    axis: Any, runs: Sequence[dict[str, Any]], cost: str, place: int, *, only_end: bool
) -> list[tuple[Any, Any]]:
    """Draw one method; its costs and mean accuracies."""
    colour, dashes = colour_of(place)
    x, y, begin = _points(runs, cost)
    if not len(x):
        return []
    mean = y.mean(axis=0)
    if only_end:
        x, y, mean, begin = x[-1:], y[:, -1:], mean[-1:], -1
    else:
        kept = _thinned(len(x), begin)
        if len(y) > 1:
            low, high = y.min(axis=0), y.max(axis=0)
            axis.fill_between(x[kept], low[kept], high[kept], color=colour, alpha=0.14, linewidth=0)
        axis.plot(x[kept], mean[kept], color=colour, linestyle=dashes)
    if len(y) > 1:
        axis.vlines(x[-1], y[:, -1].min(), y[:, -1].max(), color=colour, linewidth=1.2)
    marker = "s" if only_end else "o"
    axis.plot(x[-1], mean[-1], marker, color=colour, markersize=5, zorder=5)
    if begin >= 0:
        axis.plot(
            x[begin], mean[begin], "o", color=colour, markerfacecolor=PAPER, markersize=5, zorder=5
        )
    return [(x, mean)]


def _points(runs: Sequence[dict[str, Any]], cost: str) -> tuple[Any, Any, int]:
    """Mean cost (P,) and accuracy in percent (seeds, P) over the points all seeds share, and the
    point at which a warm-up ends, or -1."""
    curves = [[p for p in run["curve"] if p["test_accuracy"] is not None] for run in runs]
    points = min(map(len, curves))
    if not points:
        return np.zeros(0), np.zeros((len(runs), 0)), -1
    # From the ends, so that the last points are those of the finished runs.
    curves = [curve[-points:] for curve in curves]
    x = np.array([[point[cost] for point in curve] for curve in curves], dtype=float).mean(axis=0)
    y = np.array([[point["test_accuracy"] for point in curve] for curve in curves], dtype=float)
    paid = x > 0  # a log axis has no place for the start of a run without a warm-up
    phases = [p["phase"] for p, kept in zip(curves[0], paid, strict=True) if kept]
    begin = max((i for i, phase in enumerate(phases) if phase != "subset"), default=-1)
    return x[paid], 100 * y[:, paid], begin


def _thinned(count: int, begin: int) -> Any:
    """Positions of at most so many points, the first, the last and a warm-up's end among them."""
    kept = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    return np.union1d(kept, [begin]) if begin >= 0 else kept


def _limits(axis: Any, drawn: Sequence[tuple[Any, Any]]) -> None:
    """Show what matters: not the long way from chance, nor the empty left of it."""
    finals = [mean[-1] for _, mean in drawn]
    span = max(8.0, max(finals) - min(finals))
    bottom = max(0.0, min(finals) - 0.9 * span)
    axis.set_ylim(bottom, min(101.0, max(finals) + 0.15 * span))
    starts = [x[mean >= bottom][0] for x, mean in drawn if (mean >= bottom).any()]
    axis.set_xlim(0.85 * min(starts), 1.15 * max(x[-1] for x, _ in drawn))
    log_axis(axis)


def fraction_figure(results: Results) -> Figure | None:
    """Accuracy against the fraction, with bands over seeds; None for a single fraction."""
    fractions = [fraction for fraction in results.fractions if fraction is not None]
    if len(fractions) < 2:
        return None
    with figure(7.2, 3.6) as (drawn, axis):
        for place, method in enumerate(results.methods):
            found = [(f, results.runs_of(method, f)) for f in fractions]
            found = [(f, runs) for f, runs in found if runs]
            if not found:
                continue
            colour, dashes = colour_of(place)
            x = [100 * f for f, _ in found]
            y = [[100 * run["test_accuracy"] for run in runs] for _, runs in found]
            if max(map(len, y)) > 1:
                low, high = [min(some) for some in y], [max(some) for some in y]
                axis.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
            means = [sum(some) / len(some) for some in y]
            axis.plot(x, means, "o", linestyle=dashes, color=colour, markersize=4)
        log_axis(axis)
        axis.set_xticks([100 * f for f in fractions], [f"{100 * f:g}" for f in fractions])
        axis.set_xlabel("Share of the data in a subset, %")
        axis.set_ylabel("Test accuracy, %")
        svg = svg_of(drawn, "accuracy-fraction", "Test accuracy against the share of the data")
    return Figure("accuracy-fraction", "", svg)
