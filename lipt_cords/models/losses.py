"""Losses taken apart into samples, and their gradients in the logits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


PerSampleLoss = Callable[[Tensor, Tensor], Tensor]


DENSE_TARGETS = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss,
)  # fmt: skip
"""Losses that compare the logits with a target of their own shape: one-hot labels here."""


def per_sample_loss(
    loss: nn.Module | PerSampleLoss | None, device: torch.device
) -> PerSampleLoss | None:
    """A loss without reduction, or None where the closed form of cross-entropy applies."""
    if loss is None:
        return None
    if not isinstance(loss, nn.Module) or not hasattr(loss, "reduction"):
        return _one_by_one(loss)
    # Labels are known to lie in range, so ignore_index matters only when it is a class.
    if (
        type(loss) is nn.CrossEntropyLoss
        and loss.label_smoothing == 0
        and loss.weight is None
        and loss.ignore_index < 0
    ):
        return None
    single = copy.deepcopy(loss).to(device)
    single.__dict__["reduction"] = "none"
    if not isinstance(loss, DENSE_TARGETS):
        return single

    def dense(logits: Tensor, labels: Tensor) -> Tensor:
        targets = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        losses: Tensor = single(logits, targets)
        return losses.mean(dim=1)

    return dense


def _one_by_one(loss: PerSampleLoss) -> PerSampleLoss:
    """A loss that may return the mean of a batch, asked sample by sample where it does."""

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        found = loss(logits, labels)
        if found.ndim or not labels.ndim:
            return found
        parts = zip(torch.split(logits, 1), torch.split(labels, 1), strict=True)
        return torch.stack([loss(some, theirs).reshape(()) for some, theirs in parts])

    return losses


def logit_gradients(logits: Tensor, labels: Tensor, loss: PerSampleLoss | None) -> Tensor:
    """Gradients of every sample's loss in its logits, (N, C).

    Args:
        logits: (N, C).
        labels: (N,).
        loss: what `per_sample_loss` returned; None is cross-entropy, in closed form.
    """
    if loss is None:
        grads = logits.softmax(dim=1)
        rows = torch.arange(len(labels), device=labels.device)
        grads[rows, labels] -= 1
        return grads
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        losses = loss(leaf, labels)
        if losses.shape != labels.shape:
            raise ValueError(
                f"the loss must return one value a sample, shape {tuple(labels.shape)}; it "
                f"returned {tuple(losses.shape)}: use reduction='none'"
            )
        return torch.autograd.grad(losses.sum(), leaf)[0]
