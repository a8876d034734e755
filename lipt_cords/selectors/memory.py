"""How many bytes a selection may take, and how it is cut into chunks when that is not enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipt_cords.base.process_memory import free_bytes
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.base import SelectionProblem


class Scratch:
    """Arrays that all groups reuse: allocating new ones costs more than a step."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}

    def array(self, name: str, *shape: int, dtype: type = np.float64) -> NDArray[Any]:
        """An array with whatever it held before; it replaces the last of this name."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(size, dtype=dtype)
        return buffer[:size].reshape(shape)


_CHUNK_BYTES, _ROWS = 1 << 28, 1 << 14


def byte_limit(problem: SelectionProblem) -> int:
    """The problem's memory limit, or half of what is free."""
    if problem.memory_limit is not None:
        return problem.memory_limit
    return free_bytes(problem.gradients.logit_grads.device) // 2


def chunk_of(rows: int, bytes_per_row: int, limit: int) -> int:
    """Rows a chunk so that a chunk fits into the limit; at least 1, at most all.

    >>> chunk_of(1000, 10, 500), chunk_of(1000, 10, 10**6), chunk_of(1000, 10, 1)
    (50, 1000, 1)
    """
    return max(1, min(rows, limit // max(1, bytes_per_row)))


def by_sample(
    function: Callable[[LastLayerGradients], Tensor],
    gradients: LastLayerGradients,
    limit: int | None = None,
) -> Tensor:
    """One number a sample, in chunks: the factors may be mapped from files, or be large.

    Args:
        function: what it returns for a sample depends on no other one.
        gradients: of N samples.
        limit: bytes that it may take; None for a fixed number of samples a chunk.
    """
    # Copies of the logits in float64, and of the embeddings in float32.
    row = 32 * gradients.num_classes + 8 * gradients.embedding_dim
    rows = chunk_of(_ROWS, row, limit if limit is not None else _CHUNK_BYTES)
    if len(gradients) <= rows:
        return function(gradients)
    factors = (gradients.logit_grads, gradients.embeddings, gradients.labels, gradients.logits)
    chunks = zip(*(torch.split(factor, rows) for factor in factors), strict=True)
    return torch.cat([function(LastLayerGradients(*chunk)) for chunk in chunks])


def refuse(what: str, needed: int, limit: int, advice: str) -> ValueError:
    """The error for a selection that no path brings under the limit."""
    return ValueError(
        f"{what} needs about {needed / 2**20:.0f} MiB, over the limit of {limit / 2**20:.0f} MiB: "
        f"{advice}"
    )
