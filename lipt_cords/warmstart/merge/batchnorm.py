"""BatchNorm statistics of averaged weights, recomputed from training samples."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lipt_cords.base.options import StrictModel, one_of
from lipt_cords.data.source import BatchSource
from lipt_cords.models.heads import call_model

Refresh = Literal["auto", "always", "never"]


class RefreshOptions(StrictModel):
    """How the merged model gets its BatchNorm statistics."""

    batchnorm_refresh: Refresh = "auto"
    """Recompute BatchNorm statistics of the soup; ``auto`` keeps the better on held-out data."""
    refresh_samples: int = Field(2048, ge=1)
    """Training samples that the BatchNorm refresh may read."""

    @field_validator("batchnorm_refresh", mode="before")
    @classmethod
    def _known_refresh(cls, value: Any) -> Any:
        return one_of("batchnorm refresh", value, Refresh)


REFRESH_BATCH = 256


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    layers = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [layer for layer in layers if layer.running_mean is not None]


def refresh_batchnorm(model: nn.Module, source: BatchSource) -> int:
    """Recompute the running statistics of every BatchNorm layer, in place.

    Like ``torch.optim.swa_utils.update_bn``, statistics are reset and are a plain mean over
    batches. Unlike there, all other layers stay in eval mode, so dropout is off and the statistics
    are those of evaluation. All batches have one size, so that their order changes only the
    rounding; for this, up to one sample in 256 is skipped.

    Args:
        model: on the device of the source.
        source: un-augmented training samples.

    Returns:
        Samples read; 0, and nothing is changed, for a model without BatchNorm and for a single
        sample, where a channel may have one value and no variance.
    """
    layers = batchnorm_layers(model)
    if not layers or len(source) == 1:
        return 0
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    batches = max(1, len(source) // REFRESH_BATCH)
    size = len(source) // batches
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative mean
            layer.train()
        with torch.no_grad():
            order = torch.arange(batches * size)
            for inputs, _ in source.batches(order, batch_size=size):
                call_model(model, inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return batches * size


def batchnorm_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics, under their names in the state dict."""
    layers = {id(layer) for layer in batchnorm_layers(model)}
    return {
        f"{name}.{key}" if name else key: value.detach().clone()
        for name, module in model.named_modules()
        if id(module) in layers
        for key, value in module._buffers.items()
        if value is not None
    }
