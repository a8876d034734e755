"""Masks of the workers: one-shot pruning makes replicas of one start differ more."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PRUNABLE = (nn.Linear, nn.modules.conv._ConvNd)


def prunable_weights(model: nn.Module, head: nn.Linear | None = None) -> list[nn.Parameter]:
    """Trainable weights of convolutions and linear layers, the head's left out.

    The head stays dense because its gradients are what the selectors read. A weight that two
    layers share is listed once, and not at all if the head is one of them.
    """
    seen = set() if head is None else {id(head.weight)}
    weights = []
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, PRUNABLE) else None
        if weight is not None and weight.requires_grad and id(weight) not in seen:
            seen.add(id(weight))
            weights.append(weight)
    return weights


def keep_largest(scores: Tensor, kept: int) -> Tensor:
    """Mark exactly the ``kept`` largest scores; among equals, the earlier positions win.

    Args:
        scores: finite scores, shape (n,).
        kept: how many to keep, 0 to n.

    Returns:
        Boolean mask, shape (n,). Nothing is copied to the host.

    >>> keep_largest(torch.tensor([1.0, 3.0, 1.0, 1.0]), 2)
    tensor([ True,  True, False, False])
    """
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(len(scores) - kept + 1).values
    above, ties = scores > threshold, scores == threshold
    return above | (ties & (ties.cumsum(0) <= kept - above.sum()))


class Masks:
    """Binary masks over some weights, made once and put on again after every step.

    Multiplying the weights is enough to keep them at zero: momentum may still accumulate for a
    pruned weight, but what it moves is cleared before the next forward pass reads it.

    Args:
        weights: the parameters to prune, over which the density holds in all.
        density: share of their elements that stays, in (0, 1].
        generator: draws a random mask; None keeps the largest magnitudes, globally.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        density: float,
        generator: torch.Generator | None = None,
    ) -> None:
        self.weights = [weight.detach() for weight in weights]
        sizes = [weight.numel() for weight in self.weights]
        self.total, self.kept = sum(sizes), round(density * sum(sizes))
        self.masks: list[Tensor] = []
        if self.total == 0:
            return
        if generator is None:
            scores = torch.cat([weight.abs().reshape(-1).float() for weight in self.weights])
        else:
            scores = torch.rand(self.total, generator=generator).to(self.weights[0].device)
        flat = keep_largest(scores, self.kept)
        self.masks = [
            part.view_as(weight).to(weight.dtype)
            for part, weight in zip(torch.split(flat, sizes), self.weights, strict=True)
        ]

    @property
    def density(self) -> float:
        """Share of the masked weights' elements that is kept; 1 where there is nothing to mask."""
        return self.kept / self.total if self.total else 1.0

    def apply(self) -> None:
        """Set the pruned elements to zero, in place."""
        if self.masks:
            torch._foreach_mul_(self.weights, self.masks)
