"""An exponential moving average of a worker's weights."""

from __future__ import annotations

import torch
from torch import nn

from lipt_cords.warmstart.workers.sparsity import (
    Masks,
)


class WeightAverage:
    """An exponential moving average of a worker's parameters over its steps.

    The decay is ramped up, min(decay, (1 + n) / (10 + n)) after n steps, so that a short run does
    not remember its start. It is held in float32 at least: in half precision a step's share of
    it would be rounded away.

    Args:
        model: whose parameters are followed.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = [
            parameter.detach() for parameter in model.parameters() if parameter.is_floating_point()
        ]
        self._average = [
            parameter.to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            for parameter in self._parameters
        ]
        self._decay, self._steps = decay, 0

    def step(self) -> None:
        """Take in the parameters as they are now."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        now = [
            parameter.to(average.dtype)
            for parameter, average in zip(self._parameters, self._average, strict=True)
        ]
        torch._foreach_lerp_(self._average, now, 1 - decay)

    def write(self, masks: Masks | None) -> None:
        """Put the average in the place of the parameters, pruned elements cleared."""
        torch._foreach_copy_(self._parameters, self._average)
        if masks is not None:
            masks.apply()
