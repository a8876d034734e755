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


def draw(runs: Sequence[Run], directory: Path, suffix: str = "") -> list[Path]:
    """Draw accuracy against time and against sample-passes, each as SVG and PNG.

    Lines are means over seeds, bands reach from the worst seed to the best. A hollow mark is the
    end of a warm-up, a filled one the end of the run; what spends as much as LiPT is its end alone,
    a square. What a LiPT warm-up costs lies left of its
    line; a full-data warm-up is part of its line.

    Args:
        runs: records as in ``results.json``; failed ones are left out.
        directory: where the files go.
        suffix: of their names.

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
        figure.suptitle(
            "Mean and range over seeds. Hollow: the warm-up ends; filled: the run ends; "
            "squares: ends at equal cost",
            fontsize=9, x=0.01, ha="left", color="#444444",
        )  # fmt: skip
        figure.legend(
            handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            # Without a date, equal results give equal files.
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(buffer, format=kind, metadata=metadata)
            written.append(write_atomic(directory / f"{stem}{suffix}.{kind}", buffer.getvalue()))
    return written


def _panel(axis: Any, runs: Sequence[Run], cost: str) -> None:
    """One line a method over one cost."""
    from matplotlib.ticker import LogLocator, NullFormatter

    drawn = []
    for number, method in enumerate(dict.fromkeys(run["method"] for run in runs)):
        mine = [run for run in runs if run["method"] == method]
        x, y, begin = _curves(mine, cost)
        if not len(x):
            continue
        colour = COLOURS[number % len(COLOURS)]
        mean, low, high = y.mean(axis=0), y.min(axis=0), y.max(axis=0)
        style: dict[str, Any] = {"color": colour, "zorder": 3 if method == "lipt" else 2}
        # What repeats a method on a larger budget is its end alone: its line is there already.
        only_end = "@" in method
        if not only_end:
            axis.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
            width = 2.2 if method == "lipt" else 1.3
            axis.plot(x, mean, linewidth=width, alpha=0.85, **style)
        style["zorder"] = 5
        axis.vlines(x[-1], low[-1], high[-1], linewidth=1.2, **style)
        label = mine[0].get("label", method)
        marker = "s" if only_end else "o"
        axis.plot(x[-1], mean[-1], marker, markersize=6, linestyle="", label=label, **style)
        if begin >= 0:
            axis.plot(x[begin], mean[begin], "o", markerfacecolor="white", markersize=5, **style)
        drawn.append((x, mean))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    if drawn:
        finals = [mean[-1] for _, mean in drawn]
        span = max(10.0, 100 - min(finals))
        bottom = max(0.0, min(finals) - 0.6 * span)
        axis.set_ylim(bottom, min(101.0, max(finals) + 0.08 * span))
        axis.set_xlim(left=0.8 * min(x[mean >= bottom][0] for x, mean in drawn))


def _curves(runs: Sequence[Run], cost: str) -> tuple[Any, Any, int]:
    """Mean cost (P,) and accuracy in percent (seeds, P) over the points all seeds share, and the
    point at which a warm-up ends, or -1."""
    curves = [[p for p in run["curve"] if p["test_accuracy"] is not None] for run in runs]
    points = min(map(len, curves))
    x = np.array([[point[cost] for point in curve[:points]] for curve in curves], dtype=float)
    y = np.array([[point["test_accuracy"] for point in curve[:points]] for curve in curves])
    mean = x.mean(axis=0)
    paid = mean > 0  # a log axis has no place for the start of a run without a warm-up
    phases = [p["phase"] for p, kept in zip(curves[0][:points], paid, strict=True) if kept]
    begin = max((i for i, phase in enumerate(phases) if phase != "subset"), default=-1)
    return mean[paid], 100 * y[:, paid], begin
