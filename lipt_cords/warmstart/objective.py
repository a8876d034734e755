"""The loss that is descended: any loss of the user's as one mean over a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipt_cords.losses import DENSE_TARGETS

LossFunction = Callable[[Tensor, Tensor], Tensor]


def mean_loss(loss: LossFunction | None, device: torch.device | str = "cpu") -> LossFunction:
    """Turn a loss of any reduction into one scalar, the mean over the batch.

    Args:
        loss: None for cross-entropy; a torch loss of any reduction (instead of the sum the mean
            is taken, so that the learning rate keeps its meaning; dense losses such as MSE get
            one-hot targets); or any callable of (logits, labels) that returns one value a sample
            or a scalar, which is taken as it is.
        device: where the logits will be; weights inside of the loss are moved there.

    >>> loss = mean_loss(nn.CrossEntropyLoss(reduction="sum"))
    >>> logits, labels = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    >>> round(float(loss(logits, labels)), 4)
    0.6931
    """
    if loss is None:
        return F.cross_entropy
    one_hot = isinstance(loss, DENSE_TARGETS)
    inner = copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss
    if isinstance(inner, nn.Module) and getattr(inner, "reduction", None) == "sum":
        inner.reduction = "none"  # type: ignore[assignment]

    def mean(logits: Tensor, labels: Tensor) -> Tensor:
        if one_hot:
            labels = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        value = inner(logits, labels)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the loss must return a tensor, one value a sample or their mean, received "
                f"{type(value).__name__}"
            )
        return value.mean()

    return mean
