"""Learning rates over steps, and steps over epochs."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "wsd"]


def rate_factor(
    schedule: Schedule, step: int, steps: int, decay: tuple[int, int] | None = None
) -> float:
    """Share of the peak learning rate at a step, from 1 down towards 0 (after the last step).

    Args:
        schedule: ``wsd`` (warm-up, stable, decay, here without a warm-up: Hu et al., MiniCPM,
            2024) holds the rate and then falls linearly.
        step: counted from 0.
        steps: of the whole schedule.
        decay: steps (first, end) between which ``wsd`` falls; None: over the last quarter.

    >>> [rate_factor("linear", step, 4) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> [rate_factor("wsd", step, 8) for step in range(8)]
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    """
    if schedule == "wsd":
        first, end = decay or (steps - steps // 4, steps)
        return 1.0 if step < first else (end - step) / (end - first)
    if schedule == "linear":
        return 1 - step / steps
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return 1.0


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Batches in one epoch; a single sample left over joins the batch before it."""
    whole, rest = divmod(samples, batch_size)
    return whole if rest == 0 or (rest == 1 and whole > 0) else whole + 1
