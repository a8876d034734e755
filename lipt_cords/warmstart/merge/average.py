"""`average_weights`, for state dicts that a user has; a warm start merges by `codecs.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lipt_cords.models.state import State
from lipt_cords.warmstart.merge.fixed_point import FixedPointSum, largest_changes


def average_weights(
    state_dicts: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> State:
    """Average models of one architecture, parameter by parameter (a uniform model soup).

    Sums are exact in fixed point, so that the order of the models does not matter, and every entry
    keeps its dtype; integer entries are averaged and rounded. An entry that is not finite stays as
    it is where all models agree on it. BatchNorm statistics are averaged like everything else:
    refresh them before use.

    Args:
        state_dicts: at least one state dict; all with the same names and shapes.
        weights: non-negative weight of each, scaled to sum to one; None weighs all alike.

    Returns:
        A new state dict.

    Raises:
        ValueError: nothing to average, states that do not match, or unusable weights.

    Source: Wortsman et al., Model soups, ICML 2022.

    >>> average_weights([{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}], [3, 1])["w"]
    tensor([1.])
    """
    if not state_dicts:
        raise ValueError("average_weights needs at least one state dict, received none")
    weights = [1.0] * len(state_dicts) if weights is None else [float(w) for w in weights]
    if len(weights) != len(state_dicts):
        raise ValueError(
            f"expected one weight for each of {len(state_dicts)} state dicts, "
            f"received {len(weights)}"
        )
    total = sum(weights)
    if not (min(weights) >= 0 and 0 < total < float("inf")):
        raise ValueError(f"weights must be non-negative with a positive sum, received {weights}")
    reference = state_dicts[0]
    for position, state in enumerate(state_dicts):
        _require_match(reference, state, position)
    used = [(state, one) for state, one in zip(state_dicts, weights, strict=True) if one]
    finite = _finite_parts([state for state, _ in used])
    reals = [
        {name: value for name, value in state.items() if value.is_floating_point()}
        for state in finite
    ]
    largest = torch.stack([largest_changes(state, reals[0]) for state in reals]).amax(0)
    heaviest = max(one for _, one in used)
    exact = FixedPointSum(reals[0], len(used), largest, heaviest, wide=True)
    for real, (_, one) in zip(reals, used, strict=True):
        exact.add(real, one)
    averaged = exact.mean(exact.total, total, len(used))
    return {
        name: _put_back(averaged[name], used[0][0][name])
        if name in averaged
        else _weighted_integers([(state[name], one) for state, one in used], total)
        for name in reference
    }


def _finite_parts(states: Sequence[Mapping[str, Tensor]]) -> list[State]:
    """The states with zeros where the values of all are equal and not finite."""
    parts: list[State] = [{} for _ in states]
    for name, first in states[0].items():
        strange = ~first.isfinite() if first.is_floating_point() else torch.zeros(())
        for position, (part, state) in enumerate(zip(parts, states, strict=True)):
            value = state[name]
            if first.is_floating_point():
                there = ~value.isfinite()
                same = torch.equal(there.to(strange.device), strange) and torch.equal(
                    value[there].nan_to_num(), first[strange].to(value.device).nan_to_num()
                )
                if not same:
                    raise ValueError(
                        f"state dict {position} has NaN or infinite values in {name!r} that the "
                        "others do not have: leave out the models that diverged"
                    )
                value = value.masked_fill(there, 0) if bool(there.any()) else value
            part[name] = value
    return parts


def _put_back(averaged: Tensor, given: Tensor) -> Tensor:
    """The average on the device of the models, with the values that are not finite in all."""
    averaged = averaged.to(given.device)
    return torch.where(given.isfinite(), averaged, given)


def _weighted_integers(values: Sequence[tuple[Tensor, float]], total: float) -> Tensor:
    """The weighted mean of integers as differences from the first, which float64 holds."""
    first = values[0][0]
    moved = torch.zeros(first.shape, dtype=torch.float64)
    for value, weight in values:
        moved += (value.cpu().long() - first.cpu().long()).double() * weight
    mean = (moved / total).round_().long() + first.cpu().long()
    return mean.to(first.dtype).to(first.device)


def _require_match(
    reference: Mapping[str, Tensor], state: Mapping[str, Tensor], position: int
) -> None:
    if differing := sorted(set(reference) ^ set(state)):
        raise ValueError(
            f"state dict {position} does not match state dict 0: {differing[0]!r} "
            f"is in only one of them ({len(differing)} such names); average models of one "
            "architecture"
        )
    for name, tensor in reference.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f"state dict {position} does not match state dict 0: {name!r} has shape "
                f"{tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            )
