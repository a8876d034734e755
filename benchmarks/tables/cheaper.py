"""What tickets and paths cost and reach, beside plain training of as many FLOPs."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.parts import load, markdown, origin, spread

Rows = list[dict[str, Any]]
WARM_START = {
    "plain": "warm start of a ResNet-20",
    "ticket, paths": "the same with a ticket and paths",
    "plain, cut more": "the same with fewer epochs",
}
LONG = {
    "dense": "16 epochs of a ResNet-8 of width 32",
    "ticket, 50%": "the same with a ticket of half the channels",
    "dense, cut, 50%": "the same with fewer epochs",
}
"""What the page calls a method."""


def cheaper() -> str:
    """Accuracy and FLOPs of cheaper training, on Fashion-MNIST."""
    warm, long = load("cheaper-warm-start"), load("cheaper-ticket")
    rows = []
    for method, shown in WARM_START.items():
        mine, base = _of(warm, method), _of(warm, "plain")
        ratios = [one["flops"] / other["flops"] for one, other in zip(mine, base, strict=True)]
        accuracies = [one["held_out_accuracy"] for one in mine]
        rows.append([shown, spread(accuracies), f"{statistics.fmean(ratios):.2f}"])
    for method, shown in LONG.items():
        mine = _of(long, method)
        work = statistics.fmean(one["work"] for one in mine)
        rows.append([shown, spread([one["accuracy"] for one in mine]), f"{work:.2f}"])
    head = ("Fashion-MNIST", "Held-out accuracy, %", "FLOPs")
    return markdown(head, rows) + origin(warm, long)


def _of(results: dict[str, Any], method: str) -> Rows:
    """The runs of a method, by seed."""
    rows = [one for one in results["rows"] if one["method"] == method]
    return sorted(rows, key=lambda one: int(one["seed"]))


CHEAPER = (cheaper,)
