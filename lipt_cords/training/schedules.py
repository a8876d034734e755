"""Learning rates over steps, and steps over epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal, get_args

Schedule = Literal["constant", "linear", "cosine", "wsd"]
EVERY_STEP = tuple(one for one in get_args(Schedule) if one != "constant")
"""Schedules that move the rate at every step."""
MergeSchedule = Literal["even", "qsr"]


def rate_factor(
    schedule: Schedule, step: float, steps: int, decay: tuple[float, float] | None = None
) -> float:
    """Share of the peak learning rate at a step, from 1 down towards 0 (after the last step).

    Args:
        schedule: ``wsd`` (warm-up, stable, decay, here without a warm-up: Hu et al., MiniCPM,
            2024) holds the rate and then falls linearly.
        step: counted from 0; or epochs, in all three.
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


@lru_cache(maxsize=64)
def merge_steps(
    spacing: MergeSchedule, schedule: Schedule, steps: int, merges: int
) -> Sequence[int]:
    """Steps after which workers are merged, with 0 before the first.

    Args:
        spacing: ``even``; or ``qsr``, the quadratic synchronization rule: intervals grow as one
            over the squared learning rate, here scaled so that the number of merges stays.
        schedule: of the learning rate.
        steps: of a worker over all rounds.
        merges: at most as many as steps.

    Returns:
        ``merges + 1`` ascending numbers, the last of which is ``steps``.

    Source: Gu et al., A quadratic synchronization rule, ICLR 2024 (its interval (a / lr)^2).

    >>> merge_steps("even", "linear", 12, 4)
    (0, 3, 6, 9, 12)
    >>> merge_steps("qsr", "linear", 12, 4)
    (0, 1, 2, 4, 12)
    """
    if spacing == "even" or schedule == "constant":
        return tuple(number * steps // merges for number in range(merges + 1))
    done = [0.0, *accumulate(rate_factor(schedule, step, steps) ** 2 for step in range(steps))]
    found, place = [0], 0
    for number in range(1, merges):
        while done[place + 1] <= done[-1] * number / merges:
            place += 1
        least, most = found[-1] + 1, steps - merges + number
        found.append(min(max(least, place), most))
    return (*found, steps)
