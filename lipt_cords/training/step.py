"""One optimizer step on a weighted batch, in a precision and a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lipt_cords.data.batches import Inputs, to_device
from lipt_cords.models.heads import call_model, model_device
from lipt_cords.models.losses import PerSampleLoss
from lipt_cords.training.memory.planner import MemoryPlanner

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


class Step:
    """A training step; the loss of a batch is sum(w l) / sum(w), as in CORDS's own loop.

    Args:
        model: on its device; it is laid out in place.
        optimizer: over its parameters.
        loss: per-sample loss of (logits, labels), shape (B,).
        precision: of the forward pass; the loss is in full precision.
        memory_format: layout of images and convolutions.
        memory: (bytes that a step may take, bytes a second to the host or None); None: no plan.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: PerSampleLoss,
        precision: Precision,
        memory_format: MemoryFormat,
        memory: tuple[int, float | None] | None = None,
    ) -> None:
        self._model, self._optimizer, self._loss = model, optimizer, loss
        self._device = model_device(model)
        self._half = autocast_dtype(precision, self._device)
        self._layout = memory_layout(memory_format, model)
        lay_out(model, self._layout)
        self.planner: MemoryPlanner | None = None
        if memory is not None:
            budget, bandwidth = memory
            self.planner = MemoryPlanner(
                model, budget=budget, optimizer=optimizer, bandwidth=bandwidth
            )

    def __call__(
        self,
        inputs: Inputs,
        labels: Tensor,
        weights: Tensor,
        after_backward: Callable[[], None] | None = None,
    ) -> Tensor:
        """Take the step; the loss of the batch before it."""
        labels = labels.to(self._device, non_blocking=True)
        weights = weights.to(self._device, torch.float32, non_blocking=True)
        inputs = laid_out(to_device(inputs, self._device), self._layout)
        self._optimizer.zero_grad(set_to_none=True)  # before the forward pass: there is room then
        half = self._half
        with self.planner or nullcontext():
            with torch.autocast(self._device.type, dtype=half, enabled=half is not None):
                logits = call_model(self._model, inputs)
            losses = self._loss(logits if half is None else logits.float(), labels)
            # A batch whose weights are all zero asks for no step; dividing would ask for NaN.
            total = weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)
            loss = torch.dot(losses, weights) / total
            loss.backward()  # type: ignore[no-untyped-call]
        if after_backward is not None:
            after_backward()
        self._optimizer.step()
        return loss
