"""Local training: the loop of the common start and of workers, without waiting for the host."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lipt_cords.data.batches import Inputs
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.models.modes import modes_restored, train_as_given
from lipt_cords.training.memory.step_kinds import Plans
from lipt_cords.training.optimizers import OptimizerOptions, build
from lipt_cords.training.schedules import Schedule, rate_factor
from lipt_cords.training.step import Step, autocast_dtype, laid_out
from lipt_cords.warmstart.config import WarmStartConfig

Batches = Iterator[tuple[Inputs, Tensor]]


PLANS = Plans()
"""Memory plans of this process: its workers' nets are equal, so they are measured once."""


@dataclass(frozen=True)
class LocalTraining:
    """The result of the loop: samples trained on, mean loss of its last epoch, steps."""

    passes: int
    loss: float
    steps: int


def train_locally(
    model: nn.Module,
    batches: Batches,
    *,
    steps: int,
    last_epoch: int,
    schedule: Schedule,
    config: WarmStartConfig,
    loss: LossFunction,
    first_step: int = 0,
    all_steps: int | None = None,
    decay: tuple[int, int] | None = None,
    head: str | None = None,
    stacked: Sequence[nn.Parameter] | None = None,
    single_samples: bool = False,
    augment: Callable[[Tensor], Tensor] | None = None,
    before_step: Callable[[int, Inputs, Tensor], int] | None = None,
    after_backward: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    observe: Callable[[Tensor, Tensor], None] | None = None,
    enough: Callable[[int], bool] | None = None,
) -> LocalTraining:
    """Train a model in place; modules that are kept in eval mode or frozen stay as they are.

    Losses are summed on the device and read once, at the end: nothing waits for the host.

    Args:
        model: on the device of the batches.
        batches: at least ``steps`` of them.
        steps: optimizer steps.
        last_epoch: over how many of the last steps the reported loss is averaged.
        schedule: of the learning rate over ``all_steps``; its peak is ``config.lr``.
        config: learning rate, momentum, decay, precision, layout, and whether to compile.
        loss: mean loss of (logits, labels).
        first_step: position of the first step in the schedule.
        all_steps: how many steps the schedule spans; None: only these.
        decay: between which steps of the schedule ``wsd`` falls; None: over its last quarter.
        head: name of the linear head, which Muon leaves to its other optimizer; None: the last
            linear layer.
        stacked: hidden weight matrices of a model that stacks several nets; None: it is one net.
        single_samples: batches hold one sample each, on which BatchNorm cannot train; its layers
            then normalise with their running statistics.
        augment: changes the inputs of a batch.
        before_step: called with the number of the step and its batch before the forward pass;
            returns how many samples it trained on itself.
        after_backward: called between the backward pass and the optimizer's step.
        after_step: called after the optimizer's step.
        observe: called after it with the logits of the batch, as the loss had them, and its labels.
        enough: called after every step with the number of steps taken; returns whether to stop.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    matrices = hidden_matrices(model, head) if stacked is None else stacked
    options = optimizer_options(config, tuple(matrices), device, stacked=stacked is not None)
    optimizer = build(config.optimizer, parameters, options)
    peaks = [group["lr"] for group in optimizer.param_groups]
    memory = None
    if config.memory_budget is not None:
        memory = config.memory_budget, config.memory_bandwidth
    take = Step(
        model,
        optimizer,
        precision=config.precision,
        memory_format=config.memory_format,
        memory=memory,
        plans=PLANS,
        compile=config.compile,
    )
    total, passes, counted, taken = torch.zeros((), device=device), 0, 0, 0
    with _train_mode(model, single_samples):
        for step in range(steps):
            inputs, labels = next(batches)
            if augment is not None and isinstance(inputs, Tensor):
                inputs = augment(inputs)
            inputs = laid_out(inputs, take.layout)
            if before_step is not None:
                passes += before_step(step, inputs, labels)
            if schedule != "constant":
                factor = rate_factor(schedule, first_step + step, all_steps or steps, decay)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
            of_logits = _LossOfBatch(loss, labels, keep=observe is not None)
            value = take(inputs, of_logits, after_backward)
            if observe is not None and of_logits.logits is not None:
                observe(of_logits.logits.detach(), labels)
            if after_step is not None:
                after_step()
            passes += len(labels)
            if step >= steps - last_epoch:
                total += value * len(labels)
                counted += len(labels)
            taken = step + 1
            if enough is not None and enough(taken):
                break
    if take.planner is not None:
        for note in take.planner.report().notes:
            warnings.warn(f"memory_budget: {note}", stacklevel=2)
    return LocalTraining(passes, float(total) / counted if counted else math.nan, taken)


@contextmanager
def _train_mode(model: nn.Module, single_samples: bool) -> Iterator[None]:
    with modes_restored(model):
        train_as_given(model)
        for module in model.modules():
            if single_samples and isinstance(module, _BatchNorm):
                module.eval()
        yield


def optimizer_options(
    config: WarmStartConfig,
    matrices: tuple[nn.Parameter, ...],
    device: torch.device,
    *,
    stacked: bool = False,
) -> OptimizerOptions:
    """How the optimizer of common starts and workers is built."""
    return OptimizerOptions(
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
        fused=True,
        partial_gradients=config.subnetwork is not None,
        matrices=matrices,
        stacked=stacked,
        precision=autocast_dtype(config.precision, device),
        rest=config.rest,
        rest_lr=config.rest_lr,
    )


class _LossOfBatch:
    """The loss of a batch as a function of its logits, which it may keep.

    They are kept as they are: one more operation in the step would not fit the memory plan of a
    step without it. Their B x C numbers stay until the step is over, which no plan counts.
    """

    def __init__(self, loss: LossFunction, labels: Tensor, *, keep: bool) -> None:
        self._loss, self._labels, self._keep = loss, labels, keep
        self.logits: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        value: Tensor = self._loss(logits, self._labels)
        if self._keep:
            self.logits = logits
        return value
