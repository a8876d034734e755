"""The training loop, for the common start and for workers: SGD without a stop for the host."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lipt_cords.config import MemoryFormat, Precision, Schedule, WarmStartConfig
from lipt_cords.data import Inputs
from lipt_cords.models import call_model, model_device
from lipt_cords.warmstart.memory import MemoryPlanner, Plans
from lipt_cords.warmstart.objective import LossFunction

Batches = Iterator[tuple[Inputs, Tensor]]

PLANS = Plans()
"""Memory plans of this process: its workers' nets are built alike, and measured once."""


@dataclass(frozen=True)
class Descent:
    """What a run of the loop did: samples it trained on, the mean loss of its last epoch, steps."""

    passes: int
    loss: float
    steps: int


def rate_factor(
    schedule: Schedule, step: int, steps: int, decay: tuple[int, int] | None = None
) -> float:
    """Share of the peak learning rate at a step, from 1 down towards 0 (after the last step).

    Args:
        schedule: ``wsd`` (warm-up, stable, decay, here without a warm-up: Hu et al., MiniCPM,
            2024) holds the rate and then falls linearly.
        step: counted from 0.
        steps: of the whole schedule.
        decay: between which steps ``wsd`` falls; None: over the last quarter.

    >>> [rate_factor("linear", step, 4) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> [rate_factor("wsd", step, 8) for step in range(8)]
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    """
    if schedule == "wsd":
        first, end = decay or (steps - steps // 4, steps)
        return 1.0 if step < first else (end - step) / (end - first)
    if schedule == "linear":
        return 1 - step / steps
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return 1.0


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the forward pass runs in it, else None; ``auto`` asks the GPU."""
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    return torch.bfloat16 if precision == "bf16" else None


def memory_layout(choice: MemoryFormat, model: nn.Module) -> torch.memory_format:
    """The layout of images and convolution weights.

    ``auto`` is channels_last on CPU and CUDA, but contiguous on a CPU for a net with a strided 1x1
    convolution of fewer than 16 channels: with several threads torch 2.14 writes past the end of
    its memory in that one's backward pass, and the process dies. Early-Bird tickets leave such.
    """
    device = model_device(model)
    if choice == "auto" and device.type == "cpu" and any(map(_narrow_shortcut, model.modules())):
        return torch.contiguous_format
    if choice == "channels_last" or (choice == "auto" and device.type in ("cpu", "cuda")):
        return torch.channels_last
    return torch.contiguous_format


def _narrow_shortcut(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups < 16
    )


def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Put the 4-d tensors of a model in a layout, in place; those that have it keep their memory.

    Unlike ``Module.to``, which refuses channels_last for the 5-d weights of 3-d convolutions.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim != 4:
            continue
        # Not by is_contiguous(): the strides of 1x1 and one-channel weights fit both layouts, and
        # the convolution would then copy its inputs at every step. Nor by to() alone, which moves
        # (O, 1, 1, 1) away from what refers to them, though their strides stay.
        meant = torch.empty_like(tensor, memory_format=layout, device="meta").stride()
        if tensor.stride() != meant:
            tensor.data = tensor.data.to(memory_format=layout)


def laid_out(inputs: Inputs, layout: torch.memory_format) -> Inputs:
    """A batch in a layout, if it is one of images."""
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        return inputs.contiguous(memory_format=layout)
    return inputs


@contextmanager
def deterministic_convolutions() -> Iterator[None]:
    """Make cuDNN choose algorithms that give the same bits at every run."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def descend(
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
    single_samples: bool = False,
    augment: Callable[[Tensor], Tensor] | None = None,
    before_step: Callable[[int, Inputs, Tensor], int] | None = None,
    after_backward: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    enough: Callable[[int], bool] | None = None,
) -> Descent:
    """Train a model in place.

    Losses are summed on the device and read once, at the end: nothing waits for the host.

    Args:
        model: on the device of the batches.
        batches: at least ``steps`` of them.
        steps: optimizer steps.
        last_epoch: over how many of the last steps the reported loss is averaged.
        schedule: of the learning rate over ``all_steps``; its peak is ``config.lr``.
        config: learning rate, momentum, decay, precision, layout, and whether to compile.
        loss: mean loss of (logits, labels).
        first_step: where in the schedule these steps begin.
        all_steps: how many steps the schedule spans; None: these alone.
        decay: between which steps of the schedule ``wsd`` falls; None: over its last quarter.
        single_samples: batches hold one sample each, on which BatchNorm cannot train; its layers
            then normalise with their running statistics.
        augment: changes the inputs of a batch.
        before_step: called with the number of the step and its batch before the forward pass;
            returns how many samples it trained on itself.
        after_backward: called between the backward pass and the optimizer's step.
        after_step: called after the optimizer's step.
        enough: asked after every step, with the number of steps taken, whether to end here.
    """
    model.train()
    if single_samples:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda") and all(p.is_floating_point() for p in parameters),
    )
    if config.subnetwork is not None and config.momentum > 0:
        # A fused step wants a momentum of all or of none, and a block that was left out has no
        # gradient to begin one with. Zero gives the bits of one that begins by itself.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    half = autocast_dtype(config.precision, device)
    layout = memory_layout(config.memory_format, model)
    lay_out(model, layout)
    planner = None
    if config.memory_budget is not None:
        planner = MemoryPlanner(
            model,
            budget=config.memory_budget,
            optimizer=optimizer,
            bandwidth=config.memory_bandwidth,
            plans=PLANS,
        )
    network: Any = torch.compile(model) if config.compile else model
    total, passes, counted, taken = torch.zeros((), device=device), 0, 0, 0
    for step in range(steps):
        inputs, labels = next(batches)
        if augment is not None and isinstance(inputs, Tensor):
            inputs = augment(inputs)
        inputs = laid_out(inputs, layout)
        if before_step is not None:
            passes += before_step(step, inputs, labels)
        if schedule != "constant":
            factor = rate_factor(schedule, first_step + step, all_steps or steps, decay)
            optimizer.param_groups[0]["lr"] = config.lr * factor
        optimizer.zero_grad(set_to_none=True)  # before the forward pass: there is room then
        with planner or nullcontext():
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                logits = call_model(network, inputs)
            value = loss(logits.float() if half is not None else logits, labels)
            torch.autograd.backward(value)
            value = value.detach()
        if after_backward is not None:
            after_backward()
        optimizer.step()
        if after_step is not None:
            after_step()
        passes += len(labels)
        if step >= steps - last_epoch:
            total += value * len(labels)
            counted += len(labels)
        taken = step + 1
        if enough is not None and enough(taken):
            break
    if planner is not None:
        for note in planner.report().notes:
            warnings.warn(f"memory_budget: {note}", stacklevel=2)
    return Descent(passes, float(total) / counted if counted else math.nan, taken)
