"""Trials of candidate cuts: what the subset of each is worth, and which cut is taken for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lipt_cords.selectors.checks import check_fraction


class Trial(NamedTuple):
    """What a subset is worth."""

    worth: float
    passes: float = 0.0
    """Sample-passes that the trial took."""
    error: float = 0.0
    """Worths that are no farther apart count as equal, such as a standard error."""


Pilot = Callable[[Tensor], "float | tuple[float, ...]"]
"""From the indices of a subset to its worth, or to the numbers of a :class:`Trial`."""


def candidate_cuts(cuts: Sequence[float]) -> list[float]:
    """The cuts that are tried, smallest first; no cut is always one."""
    return sorted({0.0, *(check_fraction("pilot_cuts", value) for value in cuts)})


def as_trial(answer: float | tuple[float, ...]) -> Trial:
    """What a pilot answered.

    Raises:
        ValueError: other than one to three finite numbers, or an error below 0.
    """
    try:
        trial = Trial(*map(float, answer if isinstance(answer, tuple) else (answer,)))
        sound = all(map(math.isfinite, trial)) and trial.error >= 0
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            "expected of a pilot a finite worth, or (worth, passes, error) with an error of at "
            f"least 0, received {answer!r}"
        )
    return trial


def mean_trial(trials: Sequence[Trial]) -> Trial:
    """One trial for several draws of a subset, judged on the same samples: errors do not shrink."""
    worths, passes, errors = zip(*trials, strict=True)
    return Trial(sum(worths) / len(trials), sum(passes), sum(errors) / len(trials))


def chosen_cut(
    trials: Mapping[float, Trial], *, largest: bool = False
) -> tuple[float, dict[str, Any]]:
    """Of the cuts that are worth as much as the best one, up to its error: the smallest.

    A difference within the error is no reason to leave samples out (the one-standard-error rule,
    Breiman et al., 1984). Without an error it is the best one.

    Args:
        trials: what the subset of each cut is worth.
        largest: take the largest of these cuts instead, where worths are known to say too little
            for easy samples.

    Returns:
        The cut, and what ``info`` of a selection says of it.
    """
    best = max(trials.values(), key=lambda trial: trial.worth)
    equal = [cut for cut, trial in trials.items() if trial.worth >= best.worth - best.error]
    return (max if largest else min)(equal), {
        "evidence": "pilot",
        "pilot": {str(cut): trial.worth for cut, trial in trials.items()},
        "pilot_error": best.error,
        "pilot_calls": len(trials),
        "pilot_passes": sum(trial.passes for trial in trials.values()),
    }
