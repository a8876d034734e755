"""Accuracy against what it cost, drawn so that the warm-up's price is on the axis."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipt_cords.errors import missing_extra
from lipt_cords.files import write_atomic

Run = Mapping[str, Any]
# Okabe and Ito's palette: told apart by colour-blind readers and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#000000")
AXES = {
    "seconds": (
        "accuracy_vs_time",
        "Seconds of warm-up, selection and training",
        (("critical_seconds", "workers side by side"), ("seconds", "as it ran here")),
    ),
    "passes": (
        "accuracy_vs_passes",
        "Sample-passes, warm-up included",
        (("critical_passes", "critical path"), ("passes", "all workers")),
    ),
}


def draw(runs: Sequence[Run], directory: Path) -> list[Path]:
    """Draw accuracy against time and against sample-passes, each as SVG and PNG.

    Lines are means over seeds, bands reach from the worst seed to the best. A line begins where
    the warm-up ends, or at its first epoch for a warm-up on full data.

    Args:
        runs: records as in ``results.json``; failed ones are left out.
        directory: where the files go.

    Returns:
        The PNGs and SVGs written.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report", "to draw plots") from None
    good = [run for run in runs if run["status"] == "ok"]
    written = []
    for stem, label, panels in AXES.values():
        figure = Figure(figsize=(9.0, 4.4), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (cost, title) in zip(axes, panels, strict=True):
            _panel(axis, good, cost)
            axis.set_title(title, fontsize=10, loc="left", color="#444444")
            axis.set_xlabel(label, fontsize=9)
        axes[0].set_ylabel("Test accuracy, %", fontsize=9)
        handles, names = axes[0].get_legend_handles_labels()
        columns = min(3, max(1, len(names)))
        figure.legend(
            handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            # Without a date, equal results give equal files.
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(buffer, format=kind, metadata=metadata)
            written.append(write_atomic(directory / f"{stem}.{kind}", buffer.getvalue()))
    return written


def _panel(axis: Any, runs: Sequence[Run], cost: str) -> None:
    """One line a method over one cost."""
    finals, lowest = [], np.inf
    for number, method in enumerate(dict.fromkeys(run["method"] for run in runs)):
        mine = [run for run in runs if run["method"] == method]
        x, y = _curves(mine, cost)
        colour = COLOURS[number % len(COLOURS)]
        strong = method == "lipt"
        mean = y.mean(axis=0)
        axis.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        axis.plot(
            x, mean, color=colour, linewidth=2.4 if strong else 1.5, zorder=3 if strong else 2,
            label=mine[0].get("label", method),
        )  # fmt: skip
        axis.plot(x[-1], mean[-1], "o", color=colour, markersize=5, zorder=4)
        finals.append(mean[-1])
        positive = x[x > 0]
        lowest = min(lowest, positive[0] if len(positive) else np.inf)
    axis.set_xscale("log")
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    if finals:
        axis.set_xlim(left=0.8 * lowest)
        span = max(10.0, 100 - min(finals))
        axis.set_ylim(max(0.0, min(finals) - 0.6 * span), min(101.0, max(finals) + 0.08 * span))


def _curves(runs: Sequence[Run], cost: str) -> tuple[Any, Any]:
    """Mean cost (P,) and accuracy in percent (seeds, P) over the points all seeds share."""
    curves = [[p for p in run["curve"] if p["test_accuracy"] is not None] for run in runs]
    points = min(map(len, curves))
    x = np.array([[point[cost] for point in curve[:points]] for curve in curves], dtype=float)
    y = np.array([[point["test_accuracy"] for point in curve[:points]] for curve in curves])
    return x.mean(axis=0), 100 * y
