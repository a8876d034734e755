"""One training step, with its precision, memory layout and optional memory budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lipt_cords.base.devices import computes_bfloat16, prefers_channels_last
from lipt_cords.data.batches import Inputs
from lipt_cords.models.heads import call_model, model_device
from lipt_cords.models.losses import PerSampleLoss
from lipt_cords.training.memory.planner import MemoryPlanner
from lipt_cords.training.memory.step_kinds import Plans

Precision = Literal["auto", "fp32", "bf16"]


MemoryFormat = Literal["auto", "contiguous", "channels_last"]


def refuse_with_memory(**used: bool) -> None:
    """Refuse what cannot be trained within a memory budget.

    Raises:
        ValueError: one of the options is used.
    """
    for name in (name for name, is_used in used.items() if is_used):
        raise ValueError(
            f"memory_budget plans the step of one net, the same each time, and {name} trains "
            "another one: leave one of the two out"
        )


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the forward pass runs in it, else None; ``auto`` if the GPU has it."""
    if precision == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else None
    return torch.bfloat16 if precision == "bf16" else None


def memory_layout(choice: MemoryFormat, model: nn.Module) -> torch.memory_format:
    """The layout of images and convolution weights.

    ``auto`` is channels_last on CPU and CUDA, but contiguous on a CPU for a net with a strided 1x1
    convolution of fewer than 16 channels: with several threads torch 2.14 writes past the end of
    its memory in their backward pass, and the process crashes. Early-Bird tickets can create such
    convolutions.
    """
    device = model_device(model)
    if choice == "auto" and device.type == "cpu" and any(map(_narrow_shortcut, model.modules())):
        return torch.contiguous_format
    if choice == "channels_last" or (choice == "auto" and prefers_channels_last(device)):
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
        # the convolution would then copy its inputs at every step. Nor only by to(), which copies
        # (O, 1, 1, 1) weights although their strides stay, so that other references are lost.
        meant = torch.empty_like(tensor, memory_format=layout, device="meta").stride()
        if tensor.stride() != meant:
            tensor.data = tensor.data.to(memory_format=layout)


def laid_out(inputs: Inputs, layout: torch.memory_format) -> Inputs:
    """A batch in a layout, if it holds images."""
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


class Step:
    """One training step, the same for common starts, workers and trainings on subsets.

    Args:
        model: on its device; it is laid out in place.
        optimizer: over its parameters.
        precision: of the forward pass; the loss is in full precision.
        memory_format: layout of images and convolutions.
        memory: (bytes that a step may take, bytes a second to the host or None); None: no plan.
        plans: memory plans that steps of nets built alike share; None: this step's own.
        compile: run the net with ``torch.compile``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        precision: Precision,
        memory_format: MemoryFormat,
        memory: tuple[int, float | None] | None = None,
        plans: Plans | None = None,
        compile: bool = False,
    ) -> None:
        self._optimizer = optimizer
        self._device = model_device(model)
        self._half = autocast_dtype(precision, self._device)
        self.layout = memory_layout(memory_format, model)
        """Of images and convolutions."""
        lay_out(model, self.layout)
        self.planner: MemoryPlanner | None = None
        if memory is not None:
            budget, bandwidth = memory
            self.planner = MemoryPlanner(
                model, budget=budget, optimizer=optimizer, bandwidth=bandwidth, plans=plans
            )
        self._net: Any = torch.compile(model) if compile else model

    def __call__(
        self,
        inputs: Inputs,
        loss: Callable[[Tensor], Tensor],
        after_backward: Callable[[], None] | None = None,
    ) -> Tensor:
        """Take the step.

        Args:
            inputs: of the batch, on the net's device.
            loss: of the logits, in full precision; a scalar.
            after_backward: called between the backward pass and the optimizer's step.

        Returns:
            The loss before the step, detached, on the device.
        """
        inputs = laid_out(inputs, self.layout)
        self._optimizer.zero_grad(set_to_none=True)  # before the forward pass, while memory is free
        half = self._half
        with self.planner or nullcontext():
            with torch.autocast(self._device.type, dtype=half, enabled=half is not None):
                logits = call_model(self._net, inputs)
            value = loss(logits if half is None else logits.float())
            torch.autograd.backward(value)
            value = value.detach()
        if after_backward is not None:
            after_backward()
        self._optimizer.step()
        return value


def weighted_loss(
    loss: PerSampleLoss, labels: Tensor, weights: Tensor
) -> Callable[[Tensor], Tensor]:
    """The loss of a weighted batch in CORDS's own loop, sum(w l) / sum(w), of its logits.

    Args:
        loss: per-sample loss of (logits, labels), shape (B,).
        labels: (B,), on the device of the logits.
        weights: (B,) float32, non-negative, there too.
    """

    def of_logits(logits: Tensor) -> Tensor:
        losses = loss(logits, labels)
        if losses.shape != labels.shape:
            raise ValueError(
                f"the loss must return one value a sample, shape {tuple(labels.shape)}; it "
                f"returned {tuple(losses.shape)}: use reduction='none'"
            )
        # In the loss's precision, but half of one would overflow in the sum.
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        of_batch = weights.to(losses.dtype)
        # A batch whose weights are all zero takes no step; dividing would give NaN.
        total = of_batch.sum().clamp_min(torch.finfo(losses.dtype).tiny)
        return torch.dot(losses, of_batch) / total

    return of_logits
