"""Held-out accuracy of a model: for workers, the greedy soup and the BatchNorm refresh."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipt_cords.data.source import BatchSource, require_finite
from lipt_cords.models.heads import call_model
from lipt_cords.models.modes import modes_restored

BATCH = 512


def accuracy(model: nn.Module, source: BatchSource) -> float:
    """Share of samples whose largest logit is their label's, in eval mode.

    The training flags of the model are restored; its buffers are as eval mode leaves them.

    Raises:
        ValueError: inputs that are NaN or infinite; the message names the first such sample.
    """
    correct = torch.zeros((), dtype=torch.int64, device=source.device)
    finite = torch.ones((), dtype=torch.bool, device=source.device)
    with modes_restored(model), torch.no_grad():
        model.eval()
        for inputs, labels in source.batches(batch_size=BATCH):
            correct += (call_model(model, inputs).argmax(dim=1) == labels).sum()
            for values in [inputs] if isinstance(inputs, Tensor) else inputs.values():
                finite &= values.sum().isfinite()
    if not finite:
        places = torch.split(torch.arange(len(source)), BATCH)
        for place, (inputs, _) in zip(places, source.batches(batch_size=BATCH), strict=True):
            require_finite(inputs, place, "held-out")
    return int(correct) / len(source)
