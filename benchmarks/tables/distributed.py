"""What fewer merges save, and what they cost."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.parts import load, markdown, measured, origin

SETS = ("fashion-mnist", "cifar10-jpeg")
SHOWN = (1, 8, 32)
"""Merges of equal critical paths."""


def frontier() -> str:
    """Bytes and held-out loss by the number of merges, beside data-parallel training."""
    found = {name: load(f"frontier-{name}") for name in SETS}
    rows = []
    for merges in (*SHOWN, None):
        runs = {name: _runs(one["rows"], merges) for name, one in found.items()}
        sent = runs[SETS[0]][0]["bytes_with_a_rank_a_worker"]
        shown = "data-parallel training" if merges is None else str(merges)
        losses = [measured([run["end"]["held_out_loss"] for run in each]) for each in runs.values()]
        rows.append([shown, f"{sent / 1e6:,.0f}", *losses])
    head = (
        "Merges", "MB between 16 processes", *(f"Held-out loss, {name}" for name in SETS)
    )  # fmt: skip
    return markdown(head, rows) + origin(*found.values())


def _runs(rows: list[dict[str, Any]], merges: int | None) -> list[dict[str, Any]]:
    """The runs of so many merges; None: of data-parallel training."""
    if merges is None:
        return [row for row in rows if row["kind"] == "ddp"]
    return [row for row in rows if row["kind"] == "lipt" and row["rounds"] == merges]


DISTRIBUTED = (frontier,)
