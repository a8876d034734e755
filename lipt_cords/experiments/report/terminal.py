"""The table of a comparison as a terminal shows it, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from lipt_cords.base.printable import one_line
from lipt_cords.experiments.report.summary import Row, accuracy_text, count, seconds


def comparison_table(summary: Sequence[Row]) -> Table:
    """The table of a comparison, 80 columns wide; the best of every fraction stands out."""
    best: dict[float | None, float] = {}
    for row in summary:
        if row["accuracy"] is not None:
            best[row.get("fraction")] = max(best.get(row.get("fraction"), 0.0), row["accuracy"])
    table = Table(box=None, padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False)
    several = len({row.get("fraction") for row in summary}) > 1
    table.add_column("\nMethod", no_wrap=False, max_width=26)
    for heading in (
        "Test\naccuracy %", "Warm-up\ncritical", "passes\nin all", "Seconds:\nwarm-up",
        "\nselect", "\ntrain", "Passes\nin all",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    fraction = None
    for row in summary:
        if several and row["fraction"] != fraction:
            fraction = row["fraction"]
            named = "no fraction" if fraction is None else f"{fraction:.4g} of the data"
            table.add_row(Text(named, style="italic"), *[""] * 7)
        failed = f" ({row['failed']} failed)" if row["failed"] else ""
        ahead = row["accuracy"] is not None and row["accuracy"] == best[row.get("fraction")]
        label = Text(one_line(row["label"]) + failed, style="bold" if ahead else "")
        if row["accuracy"] is None:
            table.add_row(label, "-", *[""] * 6)
            continue
        table.add_row(
            label,
            accuracy_text(row),
            count(row["warmup_critical_passes"]),
            count(row["warmup_passes"]),
            seconds(row["warmup_seconds"]),
            seconds(row["selection_seconds"]),
            seconds(row["training_seconds"]),
            count(row["passes"]),
        )
    return table
