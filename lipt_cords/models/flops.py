"""What one sample costs: floating-point operations of a training step, counted by torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from lipt_cords.data.batches import Inputs, dataset_length
from lipt_cords.data.source import BatchSource
from lipt_cords.models.copies import copy_model
from lipt_cords.models.heads import call_model
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.modes import train_as_given


def flops_per_sample(
    model: nn.Module, inputs: Inputs, labels: Tensor, loss: LossFunction
) -> tuple[int, int]:
    """Count the floating-point operations of one sample by running a small batch.

    Matrix products, convolutions and attention are counted, as ``FlopCounterMode`` does; a
    multiply-add is two operations. The model is not changed.

    Args:
        inputs: a batch, on the model's device.
        labels: its labels, shape (B,).

    Returns:
        Operations of a training step (forward and backward), and of the forward pass alone.

    Raises:
        ValueError: a gradient that is sparse.
    """
    return flops_of_a_step(copy_model(model), inputs, labels, loss)


def flops_of_a_step(
    model: nn.Module, inputs: Inputs, labels: Tensor, loss: LossFunction
) -> tuple[int, int]:
    """The same for a model that may be changed: its mode, gradients and statistics are then others.

    For many counts of one copy, each of which :func:`flops_per_sample` would copy.
    """
    if len(labels) > 1:
        train_as_given(model)
    else:
        model.eval()
    with FlopCounterMode(display=False) as counter:
        value = loss(call_model(model, inputs), labels)
        forward = counter.get_total_flops()
        torch.autograd.backward(value)
        total = counter.get_total_flops()
    for name, weight in model.named_parameters():
        if weight.grad is not None and weight.grad.layout != torch.strided:
            raise ValueError(
                f"the gradient of the weight {name!r} is sparse, which masks, averages and the "
                "optimizer do not take: look it up with sparse=False"
            )
    return total // len(labels), forward // len(labels)


def few_samples(dataset: Dataset[Any], device: torch.device) -> tuple[Inputs, Tensor]:
    """The first two samples as a batch, or the only one, to trace a net and count its operations.

    Args:
        dataset: a map-style data set.
        device: where the batch goes.
    """
    some = torch.arange(min(2, dataset_length(dataset)))
    source = BatchSource(dataset, some, device=device, cache_bytes=0)
    return next(source.batches(batch_size=2))
