"""Averages of state dicts: summed in float64, so that the order of the workers is forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lipt_cords.models.state import State


class StateSum:
    """A running float64 sum of state dicts as one flat vector.

    Integer entries (``num_batches_tracked``, index buffers) are summed as differences from the
    reference, so that an entry equal everywhere comes back exactly, whatever its size.

    Args:
        reference: gives names, shapes, dtypes, and the origin of the integer entries.
    """

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        self.reference = dict(reference)
        size = sum(tensor.numel() for tensor in reference.values())
        device = next((tensor.device for tensor in reference.values()), torch.device("cpu"))
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        self.flat = torch.zeros(size, dtype=torch.float64, device=device)

    def add(self, state: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add one state, times a weight."""
        offset = 0
        for name, origin in self.reference.items():
            part = state[name].reshape(-1)
            if not origin.is_floating_point():  # float64 does not hold every int64
                part = part.to(torch.int64) - origin.reshape(-1).to(torch.int64)
            part = part.to(self.flat)
            self.flat[offset : offset + len(part)].add_(part, alpha=weight)
            offset += len(part)

    def mean(self, total: float) -> State:
        """The sum divided by the total weight, in the reference's shapes, dtypes and devices."""
        state, offset = {}, 0
        for name, origin in self.reference.items():
            part = (self.flat[offset : offset + origin.numel()] / total).view(origin.shape)
            if not origin.is_floating_point():
                part = part.round_().to(torch.int64) + origin.to(part.device, torch.int64)
            state[name] = part.to(origin.device).to(origin.dtype)
            offset += origin.numel()
        return state

    def copy(self) -> StateSum:
        """An independent sum with the same contents."""
        twin = StateSum(self.reference)
        twin.flat.copy_(self.flat)
        return twin


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
    mean = StateSum(reference)
    for state, weight in zip(state_dicts, weights, strict=True):
        if weight:
            mean.add(state, weight)
    return mean.mean(total)


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
