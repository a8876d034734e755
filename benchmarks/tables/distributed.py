"""Tables about many processes: merges, faults, many calls in one process."""

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


def faults() -> str:
    """Injected faults and how the runs ended."""
    results = load("faults")
    rows = [
        [
            name,
            str(found["trials"]),
            str(found["ended_merged"]),
            str(found["ended_with_clear_error"]),
            str(found["ended_with_unclear_error"] + found["hung"]),
            f"{found['resumed_equal']} of {found['resumed']}" if found["resumed"] else "-",
            str(found["finished_workers_lost"]),
            str(found["orphans"] + found["files_left"] + found["wrong_bits"]),
        ]
        for name, found in results["scenarios"].items()
    ]
    head = (
        "Fault, at random moments", "Trials", "Ended merged", "Ended with a clear error",
        "Hung or unclear",
        "Resumed with equal bits", "Finished workers lost", "Orphans, files left, wrong bits",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


def steady() -> str:
    """What one process keeps of hundreds of calls."""
    results = load("steady")
    rows = []
    for name, found in results["series"].items():
        growth = found["memory_growth_bytes_per_call"]
        more = found["more"]
        rows.append(
            [
                name,
                f"{found['calls']} x {len(found['seeds'])}",
                f"{growth['mean']:,.0f} ({growth['min']:,.0f} to {growth['max']:,.0f})",
                str(max(more["descriptors"])),
                str(max(more["native_threads"])),
                str(max(more["children"])),
            ]
        )
    head = (
        "In one process", "Calls x seeds", "More memory, bytes a call", "More descriptors",
        "More threads", "More children",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


DISTRIBUTED = (frontier, faults, steady)
