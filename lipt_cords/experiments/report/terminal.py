"""The table of a comparison as a terminal shows it, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from lipt_cords.base.printable import one_line
from lipt_cords.experiments.report.summary import Row, accuracy_text, count, percent, seconds


def comparison_table(summary: Sequence[Row]) -> Table:
    """The table of a comparison, 80 columns wide; the best of every fraction stands out.

    Its costs are those of the page: waiting (passes on the critical path), computing (passes in
    all), and seconds as it ran here.
    """
    best: dict[float | None, float] = {}
    for row in summary:
        if row["accuracy"] is not None:
            best[row.get("fraction")] = max(best.get(row.get("fraction"), 0.0), row["accuracy"])
    table = Table(box=None, padding=(0, 2, 0, 0), collapse_padding=True, pad_edge=False)
    several = len({row.get("fraction") for row in summary}) > 1
    table.add_column("\nMethod", no_wrap=False, max_width=36)
    for heading in (
        "Test\naccuracy %", "Waiting,\npasses", "Computing,\npasses", "Seconds\nhere",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    fraction = None
    for row in summary:
        if several and row["fraction"] != fraction:
            fraction = row["fraction"]
            named = "no fraction" if fraction is None else f"{percent(fraction)} of the data"
            table.add_row(Text(named, style="italic"), *[""] * 4)
        failed = f" ({row['failed']} failed)" if row["failed"] else ""
        ahead = row["accuracy"] is not None and row["accuracy"] == best[row.get("fraction")]
        label = Text(one_line(row["label"]) + failed, style="bold" if ahead else "")
        if row["accuracy"] is None:
            table.add_row(label, "-", *[""] * 3)
            continue
        table.add_row(
            label,
            accuracy_text(row),
            count(row["critical_passes"]),
            count(row["passes"]),
            seconds(row["seconds"]),
        )
    return table
