"""Where the time went: a bar a method, one part a phase."""

from __future__ import annotations

from collections.abc import Iterator

from lipt_cords.experiments.report.curves import Figure
from lipt_cords.experiments.report.results import Results
from lipt_cords.experiments.report.summary import Row, is_soup, percent, seconds
from lipt_cords.experiments.report.svg import INK, SERIES, figure, svg_of

PHASES = {
    "warm-up": SERIES[0],
    "gradients": SERIES[4],
    "selection": SERIES[1],
    "training": SERIES[2],
    "evaluation": SERIES[6],
}
"""Phases of a run in order, and their colours."""


def phases_of(row: Row) -> dict[str, float]:
    """Seconds of every phase; evaluation, which no method needs, is in no sum elsewhere.

    >>> costs = {"warmup_seconds": 1.0, "gradient_seconds": 0.5, "selection_seconds": 2.0,
    ...     "training_seconds": 3.0, "evaluation_seconds": 0.25}
    >>> list(phases_of(costs).values())
    [1.0, 0.5, 1.5, 3.0, 0.25]
    """
    return {
        "warm-up": row["warmup_seconds"],
        "gradients": row["gradient_seconds"],
        "selection": max(0.0, row["selection_seconds"] - row["gradient_seconds"]),
        "training": row["training_seconds"],
        "evaluation": row["evaluation_seconds"],
    }


def time_figures(results: Results) -> Iterator[Figure]:
    """One figure a fraction: the seconds of each method, with its peak memory behind the bar."""
    for number, fraction in enumerate(results.fractions):
        rows = [
            row
            for row in results.summary
            if row["fraction"] == fraction and row["accuracy"] is not None and not is_soup(row)
        ]
        if not rows:
            continue
        title = "" if fraction is None else f"{percent(fraction)} of the data"
        name = "seconds" + ("" if fraction is None else f"-{number}")
        with figure(4.6, 0.75 + 0.4 * len(rows), left=0.1) as (drawn, axis):
            longest = 0.0
            for place, row in enumerate(rows):
                left = 0.0
                for phase, length in phases_of(row).items():
                    axis.barh(place, length, 0.42, left=left, color=PHASES[phase], linewidth=0)
                    left += length
                # A label above its bar takes no room from it, however long it is.
                axis.text(0, place - 0.3, row["label"], ha="left", va="bottom", color=INK)
                memory = row.get("peak_memory") or 0
                said = f"  {seconds(left)} s" + (f", {memory / 2**20:,.0f} MiB" if memory else "")
                axis.text(left, place, said, ha="left", va="center", fontsize=8)
                longest = max(longest, left)
            axis.set_xlim(0, 1.45 * max(longest, 1e-9))
            axis.set_ylim(len(rows) - 0.5, -0.75)
            axis.set_yticks([])
            axis.grid(axis="y", visible=False)
            axis.spines["left"].set_visible(False)
            axis.set_xlabel("Seconds, mean over seeds")
            described = f"Seconds by phase for every method, {title or 'one fraction'}"
            yield Figure(name, title, svg_of(drawn, name, described))
