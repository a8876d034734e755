"""Small pools with known structure, and gradients written out in full, for the oracles."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.models.gradients import LastLayerGradients


def pool(
    samples: int,
    classes: int = 3,
    width: int = 4,
    seed: int = 0,
    *,
    labels: Tensor | None = None,
    head_seed: int = 99,
) -> LastLayerGradients:
    """Cross-entropy gradients of random embeddings under one fixed random head."""
    draws = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(samples, width, generator=draws).abs()
    weight = torch.randn(classes, width, generator=torch.Generator().manual_seed(head_seed))
    logits = embeddings @ weight.T / width**0.5
    if labels is None:
        labels = torch.randint(classes, (samples,), generator=draws)
    return from_logits(logits, embeddings, labels)


def from_logits(logits: Tensor, embeddings: Tensor, labels: Tensor) -> LastLayerGradients:
    grads = logits.softmax(dim=1)
    grads[torch.arange(len(labels)), labels] -= 1
    return LastLayerGradients(grads, embeddings, labels, logits)


def repeated(gradients: LastLayerGradients, times: int) -> LastLayerGradients:
    """Every sample several times: exact duplicates, far apart in the pool."""
    return gradients.subset(torch.arange(len(gradients)).repeat(times))


def zeroed(gradients: LastLayerGradients) -> LastLayerGradients:
    """All gradients zero, as of a model that has converged."""
    return LastLayerGradients(
        torch.zeros_like(gradients.logit_grads),
        gradients.embeddings,
        gradients.labels,
        gradients.logits,
    )


def dense(gradients: LastLayerGradients, linear_layer: bool = True) -> Tensor:
    """Every gradient written out in float64, (N, C (E + 1)) or (N, C)."""
    g = gradients.logit_grads.double()
    if not linear_layer:
        return g
    outer = g[:, :, None] * gradients.embeddings.double()[:, None, :]
    return torch.cat([g, outer.flatten(1)], dim=1)
