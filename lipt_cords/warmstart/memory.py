"""The documented import path of :mod:`lipt_cords.training.memory`."""

from lipt_cords.training.memory import (
    MemoryPlanner,
    MemoryReport,
    Op,
    Plan,
    Plans,
    Storage,
    Trace,
    least_budget,
    parse_bytes,
    plan_activations,
    show_bytes,
)

__all__ = [
    "MemoryPlanner",
    "MemoryReport",
    "Op",
    "Plan",
    "Plans",
    "Storage",
    "Trace",
    "least_budget",
    "parse_bytes",
    "plan_activations",
    "show_bytes",
]
