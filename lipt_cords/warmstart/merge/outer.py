"""What a merge makes of the average: LiPT takes it as it is, DiLoCo steps along the change."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from lipt_cords.models.state import State
from lipt_cords.warmstart.config import Outer


class OuterOptimizer:
    """From the start of a round and the average of its workers to the start of the next.

    ``average`` returns the average. ``nesterov`` treats start minus average as a gradient and
    takes one step of SGD with Nesterov momentum along it, in float64; buffers, such as BatchNorm
    statistics, and integer entries are averaged all the same. Every rank computes the same bits.

    Args:
        kind: which of the two.
        parameters: names of the entries that are trained.
        lr: outer learning rate; 1 with momentum 0 is plain averaging.
        momentum: outer momentum, in [0, 1).

    Source: Douillard et al., DiLoCo, 2023 (outer Nesterov, lr 0.7, momentum 0.9); Stich, Local
    SGD, ICLR 2019 (plain averaging).
    """

    def __init__(
        self, kind: Outer, parameters: Collection[str], *, lr: float, momentum: float
    ) -> None:
        self._kind, self._parameters = kind, set(parameters)
        self._lr, self._momentum = lr, momentum
        self.velocity: State = {}
        """Momentum of every trained entry, float64; empty before the first step."""

    def zeros(self, state: State) -> State:
        """A velocity of the right names and shapes, for a rank that is sent one."""
        return {
            name: torch.zeros_like(value, dtype=torch.float64)
            for name, value in state.items()
            if name in self._parameters
        }

    def step(self, start: State, average: State) -> State:
        """The next start, on the CPU."""
        if self._kind == "average":
            return dict(average)
        trained = [name for name in average if name in self._parameters]
        # A copy even of float64 weights: the start, theta* in the first round, is kept.
        values = [start[name].detach().cpu().to(torch.float64, copy=True) for name in trained]
        for value, name in zip(values, trained, strict=True):
            value.grad = value - average[name].double()
        sgd = torch.optim.SGD(
            values, lr=self._lr, momentum=self._momentum, nesterov=self._momentum > 0
        )
        if self.velocity and self._momentum:
            for value, name in zip(values, trained, strict=True):
                sgd.state[value]["momentum_buffer"] = self.velocity[name]
        sgd.step()
        self.velocity = {
            name: _momentum_of(sgd, value) for value, name in zip(values, trained, strict=True)
        }
        moved = {
            name: value.to(average[name].dtype) for value, name in zip(values, trained, strict=True)
        }
        return {name: moved.get(name, value) for name, value in average.items()}


def _momentum_of(sgd: torch.optim.SGD, value: Tensor) -> Tensor:
    buffer = sgd.state[value].get("momentum_buffer")
    return torch.zeros_like(value) if buffer is None else buffer
