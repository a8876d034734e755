"""`average_weights`, for state dicts that a user has; a warm start merges by `codecs.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lipt_cords.base.devices import with_float64
from lipt_cords.models.state import State


def average_weights(
    state_dicts: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> State:
    """Average models of one architecture, parameter by parameter (a uniform model soup).

    Sums run in float64 and every entry keeps its dtype; integer entries are averaged and
    rounded. BatchNorm statistics are averaged like everything else: refresh them before use.

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
    return {name: _mean([(state[name], one) for state, one in used], total, reference[name])
            for name in reference}  # fmt: skip


def _mean(values: Sequence[tuple[Tensor, float]], total: float, origin: Tensor) -> Tensor:
    """The weighted mean of one entry, in float64; integers as differences from the first model's.

    So an integer that is equal everywhere comes back exactly, whatever its size.
    """
    where = with_float64(origin.device)
    mean = torch.zeros(origin.shape, dtype=torch.float64, device=where)
    for value, weight in values:
        if not origin.is_floating_point():
            value = value.to(torch.int64) - origin.to(torch.int64)
        mean.add_(value.to(mean), alpha=weight)
    mean /= total
    if origin.is_floating_point():
        # Equal values come back with the same bits, also where float64 is not exact.
        first = values[0][0].to(mean)
        alike = torch.stack([first == value.to(mean) for value, _ in values]).all(0)
        mean = torch.where(alike, first, mean)
    if not origin.is_floating_point():
        mean = mean.round_().to(torch.int64) + origin.to(where, torch.int64)
    return mean.to(origin.dtype).to(origin.device)


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
