"""An exponential moving average of a worker's weights."""

from __future__ import annotations

import torch
from torch import nn

from lipt_cords.warmstart.workers.sparsity import (
    Masks,
)


class WeightAverage:
    """An exponential moving average of a worker's trainable parameters over its steps.

    The decay is ramped up, min(decay, (1 + n) / (10 + n)) after n steps, so that a short run
    forgets its start. It is at least in float32: in half precision the change of one step would be
    lost by rounding.

    Args:
        model: the parameters of this net are averaged.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = [
            parameter.detach()
            for parameter in model.parameters()
            if parameter.requires_grad and parameter.is_floating_point()
        ]
        self._average = [
            parameter.to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            for parameter in self._parameters
        ]
        self._decay, self._steps = decay, 0

    def step(self) -> None:
        """Update the average by the present parameters."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        now = [
            parameter.to(average.dtype)
            for parameter, average in zip(self._parameters, self._average, strict=True)
        ]
        torch._foreach_lerp_(self._average, now, 1 - decay)

    def write(self, masks: Masks | None) -> None:
        """Replace the parameters by the average, with pruned elements set to zero."""
        torch._foreach_copy_(self._parameters, self._average)
        if masks is not None:
            masks.apply()
