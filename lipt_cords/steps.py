"""One optimizer step on a weighted batch, in a precision and a layout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lipt_cords.config import MemoryFormat, Precision
from lipt_cords.data import Inputs, to_device
from lipt_cords.losses import PerSampleLoss
from lipt_cords.models import call_model, model_device
from lipt_cords.warmstart.descent import autocast_dtype, laid_out, lay_out, memory_layout
from lipt_cords.warmstart.memory import MemoryPlanner


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
