"""guided steps against plain ones, to the bit and to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.memory.nets import Case, Planner, Training, measured
from lipt_cords.warmstart.memory import Trace, least_budget

POLICIES = ("both", "swap", "recompute")
LINKS = (12e9, 2e8)
"""Bytes a second: a PCIe slot's, and so few that making things again pays."""
SHARES = {"least": 0.0, "half way": 0.5}
MEASURED, GUIDED = 2, 3

Row = dict[str, Any]


def rows(case: Case) -> Iterator[Row]:
    """One for each plan of a net."""
    plain = Training(case)
    bits = [plain.bits(plain.step(seed=number)) for number in range(MEASURED + GUIDED)]
    trace = measured(plain)
    del plain
    for policy in POLICIES:
        for bandwidth in LINKS:
            low = least_budget(trace, bandwidth=bandwidth, policy=policy)
            for name, share in SHARES.items():
                budget = int(low + share * (trace.peak - low))
                options = {"policy": policy, "bandwidth": bandwidth}
                yield {"net": case.name, "at": name, **_row(case, trace, bits, budget, options)}


def _row(case: Case, trace: Trace, bits: list[Any], budget: int, options: Row) -> Row:
    """Train from the start under a plan; the same steps were taken plainly."""
    training = Training(case)
    planner = Planner(training.net, budget=budget, optimizer=training.sgd, **options)
    differs = set[str]()
    for number, plain in enumerate(bits):
        mine = training.bits(training.step(planner, seed=number))
        differs.update(name for name in plain if mine[name] != plain[name])
    report, made = planner.report(), planner.made
    if made is None or report.measured_peak is None:
        raise RuntimeError("no step followed a plan")
    counts, added = made.counts(), trace.peak - trace.base
    return {
        **options, "budget": budget, "base": trace.base, "plain_peak": trace.peak,
        "planned_peak": made.peak, "measured_peak": report.measured_peak,
        "measured_over_planned": report.measured_peak / made.peak,
        "planned_added": (made.peak - trace.base) / added,
        "measured_added": (report.measured_peak - trace.base) / added,
        "swapped": counts["swap"], "recomputed": counts["recompute"],
        "steps": report.steps, "moved_triggers": report.moved, "notes": report.notes,
        "bit_equal": not differs, "differs": sorted(differs),
    }  # fmt: skip
