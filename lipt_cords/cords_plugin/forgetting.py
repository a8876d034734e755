"""A loader of CORDS that forgets samples: out of the subset, out of later ones, out of the soup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def without(
    indices: Sequence[Any], weights: Any, forgotten: Iterable[int], owner: str
) -> tuple[list[int], Any]:
    """A selection without forgotten samples.

    Args:
        indices: of the selected samples.
        weights: one each: a tensor, an array or a list.
        forgotten: samples that must not be in it.
        owner: whose selection, for the error.

    Raises:
        ValueError: nothing else was selected.
    """
    gone = set(forgotten)
    stays = [place for place, index in enumerate(indices) if int(index) not in gone]
    if not stays:
        raise ValueError(
            f"{owner} selected forgotten samples alone: raise fraction, or build the loader on "
            "data without them"
        )
    if len(stays) == len(indices):
        return list(indices), weights
    kept = [int(indices[place]) for place in stays]
    if isinstance(weights, list):
        return kept, [weights[place] for place in stays]
    return kept, weights[torch.tensor(stays) if isinstance(weights, Tensor) else stays]
