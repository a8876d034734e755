"""Rows of benchmarks/fixed_subset.py and of what is like it."""

from __future__ import annotations

import statistics
from typing import Any


def of(results: dict[str, Any], fraction: float, method: str) -> list[dict[str, Any]]:
    """Rows of a method at a fraction, seed by seed."""
    rows = [
        row for row in results["rows"] if (row["fraction"], row["method"]) == (fraction, method)
    ]
    return sorted(rows, key=lambda row: row["seed"])


def uncut(results: dict[str, Any], fraction: float) -> bool:
    """Whether no seed's trials chose a cut, so that every subset is the random one."""
    return not any(row["cut"] for row in of(results, fraction, "lipt"))


def signed(values: list[float]) -> str:
    """Mean difference and its deviation over seeds, in points."""
    return f"{100 * statistics.fmean(values):+.1f} ± {100 * statistics.stdev(values):.1f}"


def first_use(results: dict[str, Any]) -> tuple[float, float]:
    """Passes of the first training with all that it takes, over the training's: least and most."""
    found = [
        (row["warmup_passes"] + row["pilot_passes"] + row["training_passes"])
        / row["training_passes"]
        for row in results["rows"] if row["method"] == "lipt"
    ]  # fmt: skip
    return min(found), max(found)
