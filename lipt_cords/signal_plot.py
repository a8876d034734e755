"""The gradient signal over the rounds of a warm start: when more rounds stopped to matter."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipt_cords.errors import missing_extra
from lipt_cords.files import write_atomic

STEM = "gradient_signal"
PANELS = (
    ("rank_correlation", "Halves of the workers agree on\nwhich samples are hard (rank corr.)"),
    ("class_cosine", "Workers' class gradients\npoint alike (cosine)"),
    ("merged_loss", "Held-out loss\nof the merged model"),
    ("benefit", "Its fall over the last\nquarter of the path"),
)


def has_rounds(report: Mapping[str, Any] | None) -> bool:
    """Whether a warm start's report, as a mapping, has measured rounds to draw."""
    rounds = (report or {}).get("rounds", [])
    return sum(one["stability"] is not None for one in rounds) > 1


def draw_signal(reports: Mapping[str, Mapping[str, Any]], directory: Path) -> list[Path]:
    """Draw what the workers' spread said after each round against the critical path.

    Args:
        reports: warm starts' reports as mappings, by a label each; several of one label are
            seeds, drawn alike.
        directory: where the SVG and PNG go.

    Returns:
        The files written.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report", "to draw plots") from None
    figure = Figure(figsize=(9.0, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True).ravel()
    for axis, (name, title) in zip(axes, PANELS, strict=True):
        for label, report in reports.items():
            x, y = _curve(report["rounds"], name)
            axis.plot(x, y, "o-", markersize=3.5, linewidth=1.4, color="#0072B2", alpha=0.8)
            if len(reports) > 1 and y:
                axis.annotate(label, (x[-1], y[-1]), fontsize=7, color="#444444")
        axis.set_title(title, fontsize=9, loc="left", color="#444444")
        axis.grid(True, color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axis in axes[2:]:
        axis.set_xlabel("Sample-passes on the critical path", fontsize=9)
    written = []
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        # Without a date, equal results give equal files.
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata)
        written.append(write_atomic(directory / f"{STEM}.{kind}", buffer.getvalue()))
    return written


def _curve(rounds: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Critical-path passes and values of one signal, where it was measured."""
    points = [
        (one["critical_path_passes"], one["stability"][name])
        for one in rounds
        if one["stability"] is not None and one["stability"][name] is not None
    ]
    return [x for x, _ in points], [y for _, y in points]
