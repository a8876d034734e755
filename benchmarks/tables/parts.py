"""What the tables of README and docs are made with."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import RESULTS


def load(name: str) -> dict[str, Any]:
    """A committed result."""
    payload: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return payload


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean and sample deviation in percent; a single value has none."""
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def measured(values: Sequence[float]) -> str:
    """Mean and sample deviation of a measure; a single value has none."""
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def origin(*results: dict[str, Any]) -> str:
    """Where the figures of a table come from, in a line for each machine and revision."""
    commands: dict[str, list[str]] = {}
    for one in results:
        commands.setdefault(_place(one), []).append(f"`{one['command']}`")
    return "".join(f"\n{', '.join(each)}, {place}.\n" for place, each in commands.items())


def _place(results: dict[str, Any]) -> str:
    place = results.get("provenance", results)
    machine = place["machine"]
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    later = "".join(
        f" (completed at {one['revision']}, on {one['machine']['processor']})"
        for one in results.get("resumed", [])
    )
    return (
        f"revision {place['revision']}{later}, torch {place['versions']['torch']}, {threads} of "
        f"{machine['processor']}"
    )
