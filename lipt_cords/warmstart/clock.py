"""Wall seconds by phase, of which the report's bill is made."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from lipt_cords.models.flops import synchronize

PHASES = ("prepare", "common", "workers", "evaluation", "soup", "refresh")


class Clock:
    """Charges time to one phase after the other, with the device's queue emptied in between.

    Args:
        device: whose queue.
        earlier: seconds of a bill that this one goes on from.
    """

    def __init__(self, device: torch.device, earlier: Mapping[str, float] | None = None) -> None:
        self._device, self._phase = device, ""
        self._earlier = dict(earlier or {})
        self._seconds: dict[str, float] = defaultdict(float)
        synchronize(device)
        self._began = time.perf_counter()

    def enter(self, phase: str) -> None:
        """From now on time is charged to this phase."""
        synchronize(self._device)
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._began
        self._phase, self._began = phase, now

    def phases(self, evaluation: float, rounds: Sequence[float]) -> dict[str, float]:
        """Seconds of every phase, of the critical path and in all, as the report has them.

        Args:
            evaluation: seconds of the workers' evaluation, taken out of their phase.
            rounds: seconds of the slowest worker of every round.
        """
        self.enter(self._phase)
        spent = dict(self._seconds)
        total = sum(spent.values())
        spent["workers"] = spent.get("workers", 0.0) - evaluation
        spent["evaluation"] = evaluation
        seconds = {name: self._earlier.get(name, 0.0) + spent.get(name, 0.0) for name in PHASES}
        alone = seconds["common"] + seconds["soup"] + seconds["refresh"]
        seconds["critical_path"] = alone + sum(rounds)
        seconds["total"] = self._earlier.get("total", 0.0) + total
        return seconds
