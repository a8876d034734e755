"""BatchNorm statistics of averaged weights, recomputed from training samples."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from lipt_cords.base.options import StrictModel, one_of
from lipt_cords.data.source import BatchSource
from lipt_cords.models.heads import call_model
from lipt_cords.models.modes import modes_restored, moving_batchnorms

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


def refresh_batchnorm(model: nn.Module, source: BatchSource) -> int:
    """Recompute the running statistics of every BatchNorm layer that training moves, in place.

    Layers that are kept in eval mode or frozen (:mod:`lipt_cords.models.modes`) stay as they are.

    Like ``torch.optim.swa_utils.update_bn``, statistics are reset and are a plain mean over
    batches. Unlike there, all other layers stay in eval mode, so dropout is off and the statistics
    are those of evaluation. All batches have one size, so that their order changes only the
    rounding; for this, up to one sample in 256 is skipped.

    Args:
        model: on the device of the source.
        source: un-augmented training samples.

    Returns:
        Samples read; 0, and nothing is changed, for a model without such layers and for a single
        sample, where a channel may have one value and no variance.
    """
    layers = list({id(layer): layer for layer in moving_batchnorms(model).values()}.values())
    if not layers or len(source) == 1:
        return 0
    momenta = [layer.momentum for layer in layers]
    batches = max(1, len(source) // REFRESH_BATCH)
    size = len(source) // batches
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # a cumulative mean
                layer.train()
            order = torch.arange(batches * size)
            for inputs, _ in source.batches(order, batch_size=size):
                call_model(model, inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    return batches * size


def batchnorm_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics that training moves, by their names in the state dict."""
    return {
        f"{name}.{key}" if name else key: value.detach().clone()
        for name, layer in moving_batchnorms(model).items()
        for key, value in layer._buffers.items()
        if value is not None
    }
