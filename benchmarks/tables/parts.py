"""What the tables of README and docs are made with."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks import RESULTS


def load(name: str) -> dict[str, Any]:
    """A committed result."""
    payload: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return payload


SETS = ("cifar10-jpeg", "fashion-mnist")
"""In the order of the tables."""
IN_A_SET = re.compile(rf"--set ({'|'.join(SETS)})\b")


def results_of(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The committed results of a script, set by set."""
    there = [one for one in SETS if (RESULTS / f"{name}-{one}.json").exists()]
    return [(one, load(f"{name}-{one}")) for one in there]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    uneven = [row[0] for row in rows if len(row) != len(headings)]
    if uneven:
        raise ValueError(f"rows without a cell for each of {len(headings)} columns: {uneven}")
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
    """Where the figures of a table come from, in a line for each machine.

    Commands that differ in the set alone are said once, with ``--set SET``.
    """
    machines: dict[str, dict[str, list[str]]] = {}
    for one in results:
        place = one.get("provenance", one)
        revisions = machines.setdefault(_machine(place), {})
        revisions.setdefault(_revision(one, place), []).append(one["command"])
    return "".join(
        "\n" + "; ".join(f"{_commands(each)}, {revision}" for revision, each in found.items())
        + f", {machine}.\n"
        for machine, found in machines.items()
    )  # fmt: skip


def origin_of(found: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Where the figures of the tables of several sets come from."""
    return origin(*(results for _, results in found)).removeprefix("\n")


def _commands(each: Sequence[str]) -> str:
    anywhere = Counter(IN_A_SET.sub("--set SET", one) for one in each)
    said = (IN_A_SET.sub("--set SET", one) for one in each)
    shown = [some if anywhere[some] > 1 else one for one, some in zip(each, said, strict=True)]
    return ", ".join(f"`{one}`" for one in dict.fromkeys(shown))


def _machine(place: dict[str, Any]) -> str:
    machine = place["machine"]
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)
    return f"torch {place['versions']['torch']}, {threads} of {machine['processor']}"


def _revision(results: dict[str, Any], place: dict[str, Any]) -> str:
    resumed = dict.fromkeys(
        (one["revision"], one["machine"]["processor"])
        for one in results.get("resumed", [])
        if one["revision"] != place["revision"]
        or one["machine"]["processor"] != place["machine"]["processor"]
    )
    at: dict[str, list[str]] = {}
    for one, processor in resumed:
        at.setdefault(processor, []).append(one)
    later = "".join(
        f" (completed at {', '.join(some)}, on {processor})" for processor, some in at.items()
    )
    of_runs = dict.fromkeys(
        run["revision"]
        for part in results.get("parts", [])
        for run in part["runs"]
        if "revision" in run
    )
    earlier = "".join(f", {one}" for one in of_runs if one != place["revision"])
    return f"revision{'s' * bool(earlier)} {place['revision']}{earlier}{later}"
