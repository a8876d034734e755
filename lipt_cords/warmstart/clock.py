"""Wall seconds by phase, for the report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from lipt_cords.base.devices import synchronize

PHASES = ("prepare", "common", "workers", "evaluation", "soup", "refresh")


class Clock:
    """Measures one phase after the other; waits for the device between them.

    Args:
        device: waited for at every change of the phase.
        earlier: seconds of an earlier report, to be added.
    """

    def __init__(self, device: torch.device, earlier: Mapping[str, float] | None = None) -> None:
        self._device, self._phase = device, ""
        self._earlier = dict(earlier or {})
        self._seconds: dict[str, float] = defaultdict(float)
        synchronize(device)
        self._began = time.perf_counter()

    def enter(self, phase: str) -> None:
        """End the current phase and begin this one."""
        synchronize(self._device)
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._began
        self._phase, self._began = phase, now

    def phases(self, evaluation: float, rounds: Sequence[float]) -> dict[str, float]:
        """Seconds of every phase, of the critical path and in total, as in the report.

        Args:
            evaluation: seconds of the workers' evaluation, subtracted from the phase ``workers``.
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
