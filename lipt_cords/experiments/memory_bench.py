"""Training steps of a configuration, measured and planned, each from one and the same state.

The step is the one that a training run takes: same net, loss, optimizer, precision and layout. It
is taken on a net of its own, the global random states are left as they were, and nothing is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.batches import Inputs
from lipt_cords.data.datasets import DataSplits
from lipt_cords.data.source import BatchSource
from lipt_cords.experiments.choose import per_sample_loss
from lipt_cords.experiments.run import build_net
from lipt_cords.training.memory.largest_batch import TooLarge
from lipt_cords.training.memory.link import build_link
from lipt_cords.training.memory.plan import Plan, Policy
from lipt_cords.training.memory.planner import MemoryPlanner
from lipt_cords.training.memory.report import MemoryReport
from lipt_cords.training.memory.trace import Trace
from lipt_cords.training.optimizers import build_optimizer
from lipt_cords.training.step import Step, weighted_loss

NO_BUDGET = 2**60
"""Bytes that no step takes: a planner with that budget only measures."""


@dataclass(frozen=True)
class Followed:
    """A plan, and the step that followed it.

    Attributes:
        plan: as it was made, before the step moved any trigger of it.
        report: of the planner, after that step.
        same_bits: whether the loss, the gradients, and the weights and buffers after the step
            are those of the same step when it was measured.
    """

    plan: Plan
    report: MemoryReport
    same_bits: bool


class MemoryBench:
    """A net and its data, on which steps of any batch size can be tried.

    Args:
        config: the run whose step it is.
        splits: its data.
        device: where the step runs.
        bandwidth: bytes a second to the host, each way; None measures it on a GPU, and takes 12e9
            on a CPU, where the device is simulated.
        policy: ``both``, or ``swap`` or ``recompute`` alone.
        speed: plan as for a device that is so many times faster.

    Raises:
        ValueError: an unknown net, or a device without a link to the host.
    """

    def __init__(
        self,
        config: RunConfig,
        splits: DataSplits,
        device: torch.device,
        *,
        bandwidth: float | None = None,
        policy: Policy = "both",
        speed: float = 1.0,
    ) -> None:
        self.config, self.device = config, device
        self.policy, self.speed = policy, speed
        self.bandwidth = build_link(device, bandwidth).bandwidth
        self._net = build_net(config, splits).to(device).train()
        self._source = BatchSource(splits.train, device=device, cache_bytes=0)
        self._begin = _copied(self._net.state_dict())

    @property
    def weights(self) -> int:
        """Bytes of the net's weights and buffers."""
        tensors = (*self._net.parameters(), *self._net.buffers())
        storages = {id(t.untyped_storage()): t.untyped_storage() for t in tensors}
        return sum(storage.nbytes() for storage in storages.values())

    def measure(self, samples: int) -> Trace:
        """The second of two steps on a batch, with the shorter time of each operation.

        Args:
            samples: in the batch; those of the data repeat where they are fewer.

        Raises:
            TooLarge: even with all activations on the host it does not fit.
        """
        with self._told_if_too_large(samples):
            step = self._step(samples, NO_BUDGET)
            step.take()
            step.take()
            return faster(step.planner.traces[0], self.speed)

    def follow(self, samples: int, budget: int) -> Followed:
        """Measure a step on a batch, plan it, and take it once more as planned.

        Args:
            samples: in the batch.
            budget: bytes for all that the step has in memory.

        Raises:
            ValueError: no plan fits the budget; the least that works is named.
            TooLarge: even with all activations on the host the step does not fit.
        """
        with self._told_if_too_large(samples):
            step = self._step(samples, budget)
            step.take()  # the optimizer's state is there from now on
            before = step.state()
            measured = step.take()
            step.restore(before)
            guided = step.take()
        if step.planner.made is None:
            raise RuntimeError("a step was to follow a plan, and none was made")
        same = len(measured) == len(guided) and all(map(torch.equal, measured, guided))
        return Followed(step.planner.made, step.planner.report(), same)

    def _step(self, samples: int, budget: int) -> _BenchStep:
        """Steps on a batch, from the beginning."""
        self._net.load_state_dict(self._begin)
        config, net = self.config, self._net
        order = torch.arange(samples) % len(self._source)
        with isolated_rng(config.train_args.seed, "memory", "data"):
            inputs, labels = next(self._source.batches(order, batch_size=samples))
        optimizer = build_optimizer(net, config.optimizer)
        train = config.train_args
        step = Step(net, optimizer, precision=train.precision, memory_format=train.memory_format)
        weights = torch.ones(len(labels), device=labels.device)
        loss = weighted_loss(per_sample_loss(config), labels, weights)
        planner = _Planner(
            net, budget=budget, optimizer=optimizer, bandwidth=self.bandwidth, policy=self.policy
        )
        planner.speed = self.speed
        step.planner = planner
        return _BenchStep(step, planner, net, optimizer, inputs, loss, train.seed)

    @contextmanager
    def _told_if_too_large(self, samples: int) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise TooLarge(
                f"a batch of {samples} does not fit {self.device} even with all its activations on "
                "the host: take a smaller one"
            ) from None


class _Planner(MemoryPlanner):
    """A planner that remembers its plan, and may plan for a faster device."""

    speed = 1.0
    made: Plan | None = None

    def plan_for(self, trace: Trace) -> Plan:
        self.made = super().plan_for(faster(trace, self.speed))
        return self.made


@dataclass(frozen=True)
class _BenchStep:
    """A step that can be taken again from the state that it was taken from."""

    step: Step
    planner: _Planner
    net: torch.nn.Module
    optimizer: Optimizer
    inputs: Inputs
    loss: Callable[[Tensor], Tensor]
    seed: int

    def take(self) -> list[Tensor]:
        """Take it; its loss, gradients, weights and buffers, on the host."""
        with isolated_rng(self.seed, "memory", "step"):
            loss = self.step(self.inputs, self.loss)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        result: list[Tensor] = _copied([loss, *gradients, *self.net.state_dict().values()])
        return result

    def state(self) -> Any:
        """All that a step changes."""
        return _copied((self.net.state_dict(), self.optimizer.state_dict()))

    def restore(self, state: Any) -> None:
        """Go back to it."""
        weights, optimizer = state
        self.net.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)


def faster(trace: Trace, speed: float) -> Trace:
    """The same step as a device that is so many times faster would take it.

    Args:
        trace: the measured step.
        speed: above 0.

    >>> from lipt_cords.warmstart.memory import Op
    >>> faster(Trace((Op("aten.mm", 3.0),), 1, ()), 10).seconds
    0.3
    """
    if speed == 1:
        return trace
    return replace(trace, ops=tuple(replace(op, seconds=op.seconds / speed) for op in trace.ops))


def _copied(values: Any) -> Any:
    """Tensors of anything nested, copied to the host."""
    return tree_map(
        lambda one: one.detach().to("cpu", copy=True) if isinstance(one, Tensor) else one, values
    )
