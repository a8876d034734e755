"""A net under a memory planner, and its twin that trains plainly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.training.memory.planner import MemoryPlanner
from lipt_cords.training.memory.trace import Trace


class Pair:
    """A net under a planner, and its twin that trains plainly."""

    def __init__(
        self, build: Callable[[], nn.Module], shape: tuple[int, ...], half: bool = False
    ) -> None:
        self.net, self.twin = build(), build()
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(shape, generator=generator)
        self.labels = torch.randint(0, 10, shape[:1], generator=generator)
        self.half = half
        self.optimizers = {
            id(net): torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
            for net in (self.net, self.twin)
        }
        self.planner: MemoryPlanner | None = None
        self.number = 0

    def plan(self, budget: int | str, **options: Any) -> MemoryPlanner:
        optimizer = self.optimizers[id(self.net)]
        self.planner = MemoryPlanner(self.net, budget=budget, optimizer=optimizer, **options)
        return self.planner

    def take(self, net: nn.Module, inputs: Tensor, labels: Tensor, around: Any) -> Tensor:
        torch.manual_seed(self.number)
        self.optimizers[id(net)].zero_grad(set_to_none=True)
        with around:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
                logits = net(inputs)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
        after = torch.rand(1)
        self.optimizers[id(net)].step()
        return torch.cat([loss.detach().reshape(1), after])

    def step(self, batch: int | None = None) -> None:
        """One step of both; everything must be equal, the state of the random numbers too."""
        inputs, labels = self.inputs[:batch], self.labels[:batch]
        mine = self.take(self.net, inputs, labels, self.planner or nullcontext())
        other = self.take(self.twin, inputs, labels, nullcontext())
        assert torch.equal(mine, other)
        for (name, one), two in zip(
            self.net.named_parameters(), self.twin.parameters(), strict=True
        ):
            assert one.grad is not None and two.grad is not None
            assert torch.equal(one.grad, two.grad), name
        for (name, here), there in zip(
            self.net.state_dict().items(), self.twin.state_dict().values(), strict=True
        ):
            assert torch.equal(here, there), name
        self.number += 1


def measured(pair: Pair) -> Trace:
    """A pair's step, once its optimizer's state is there; the pair goes on with other budgets."""
    planner = pair.plan(2**50)
    for _ in range(3):
        pair.step()
    plan = planner.report().plan
    assert plan is not None
    return plan.trace
