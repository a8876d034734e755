"""Losses and gradients of a model on a few held-out samples, to compare workers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lipt_cords.base.messages import travels
from lipt_cords.base.options import StrictModel
from lipt_cords.base.randomness import generator
from lipt_cords.data.source import SCAN_BATCH, BatchSource, require_finite
from lipt_cords.data.splits import balanced_order
from lipt_cords.models.gradients import last_layer_gradients

logger = logging.getLogger(__name__)

LARGEST = 2**22
"""Most entries of class-mean gradients; above it only the bias part is used."""


class ProbeOptions(StrictModel):
    """How the workers of a round are compared."""

    probe_samples: int = Field(1024, ge=1)
    """Held-out samples on which workers are compared after a round."""
    probe_every: int | None = Field(None, ge=1)
    """Rounds between two comparisons, the last round always included; None: an eighth of them."""


@travels
@dataclass(frozen=True)
class Reading:
    """Losses and gradients of one model on the probe.

    Attributes:
        losses: cross-entropy of every sample, shape (n,), float32, on the CPU.
        accuracy: share of samples classified correctly.
        class_gradients: mean last-layer gradient of every class that the probe holds, one row per
            class, float32, on the CPU.
    """

    losses: Tensor
    accuracy: float
    class_gradients: Tensor

    @property
    def loss(self) -> float:
        """Mean loss."""
        return float(self.losses.double().mean())


class Probe:
    """A fixed, class-balanced part of the held-out data.

    Args:
        source: the held-out data.
        samples: at most so many of them.
        seed: of the draw.
        head: name of the linear head.

    Raises:
        ValueError: inputs that are not finite; the first such sample is named.
    """

    def __init__(self, source: BatchSource, samples: int, *, seed: int, head: str) -> None:
        order = balanced_order(source.labels, generator(seed, "probe"))
        self._source, self._head = source, head
        self._positions = order[:samples].sort().values
        parts = torch.split(self._positions, SCAN_BATCH)
        batches = source.batches(self._positions, batch_size=SCAN_BATCH)
        for part, (inputs, _) in zip(parts, batches, strict=True):
            require_finite(inputs, part, "held-out")

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def is_everything(self) -> bool:
        """Whether the probe is all of the held-out data."""
        return len(self) == len(self._source)

    def read(self, model: nn.Module) -> Reading | None:
        """Losses and class-mean gradients of a model, in eval mode; one forward pass per sample.

        Returns:
            None for a model whose outputs or losses are not finite.
        """
        try:
            gradients = last_layer_gradients(
                model, self._source, head=self._head, indices=self._positions
            )
        except ValueError as error:
            logger.warning("a model has no reading on the held-out samples: %s", error)
            return None
        losses = F.cross_entropy(gradients.logits, gradients.labels, reduction="none")
        if not bool(losses.isfinite().all()):  # finite logits that are too far apart
            logger.warning("a model has no reading on the held-out samples: infinite losses")
            return None
        rows = class_mean_gradients(gradients.logit_grads, gradients.embeddings, gradients.labels)
        right = int(gradients.correct().sum()) / len(gradients)
        return Reading(losses.float().cpu(), right, rows.cpu())


def class_mean_gradients(logit_grads_NC: Tensor, embeddings_NE: Tensor, labels_N: Tensor) -> Tensor:
    """Mean over each class's samples of the last-layer gradient g (x) [1, e].

    Args:
        logit_grads_NC: dl/dlogits.
        embeddings_NE: inputs of the head.
        labels_N: classes.

    Returns:
        One row of C (E + 1) entries for each class present, ascending; of C entries, only the bias
        part, where all rows would have more than 2**22.
    """
    present, class_of = torch.unique(labels_N, return_inverse=True)
    members = F.one_hot(class_of, len(present)).to(logit_grads_NC.dtype)
    members = members / members.sum(dim=0)
    classes, width = logit_grads_NC.shape[1], embeddings_NE.shape[1] + 1
    if len(present) * classes * width > LARGEST:
        return (members.T @ logit_grads_NC).float()
    ones = torch.ones_like(embeddings_NE[:, :1])
    inputs = torch.cat([ones, embeddings_NE], dim=1)
    rows = [
        (logit_grads_NC * members[:, [row]]).T @ inputs  # (C, E + 1)
        for row in range(len(present))
    ]
    return torch.stack(rows).flatten(1).float()
