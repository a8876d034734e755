"""What was tried to break a run, and how often it did."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.parts import load, markdown, origin

WRONG = (
    "ended_with_unclear_error", "hung", "finished_workers_lost", "orphans", "files_left",
    "wrong_bits",
)  # fmt: skip
"""How a run with a fault may end wrong."""


def reliability() -> str:
    """Trials of every kind, and those that went wrong."""
    faults, calls = load("faults"), load("steady")
    problems, mistakes = load("selection_attacks"), load("device-mistakes")
    kinds, series = faults["scenarios"].values(), calls["series"].values()
    rows = [
        _row(
            f"runs with a fault at a random moment, {len(kinds)} kinds",
            sum(one["trials"] for one in kinds),
            sum(_wrong(one) for one in kinds),
        ),
        _row(
            "random problems for all selectors, against brute force",
            problems["problems"],
            problems["wrong"],
        ),
        _row(
            "fits, selections and plans in one process, for leaks",
            sum(_calls(one) for one in series),
            sum(_calls(one) for one in series if not one["flat"]),
        ),
        _row(
            "device mistakes put into the source, for tests to catch",
            len(mistakes["rows"]),
            sum(not one["caught"] for one in mistakes["rows"]),
        ),
    ]
    head = ("What was tried", "Cases", "Went wrong")
    return markdown(head, rows) + origin(faults, problems, calls, mistakes)


def _wrong(found: dict[str, Any]) -> int:
    """Runs and resumed runs that ended wrong, and what they left or lost."""
    resumed: int = found["resumed"] - found["resumed_equal"]
    return resumed + sum(int(found[name]) for name in WRONG)


def _calls(found: dict[str, Any]) -> int:
    return int(found["calls"]) * len(found["seeds"])


def _row(what: str, cases: int, wrong: int) -> list[str]:
    return [what, f"{cases:,}", f"{wrong:,}"]


RELIABILITY = (reliability,)
