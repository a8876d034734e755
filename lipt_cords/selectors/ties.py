"""One rule for ties, on every device: values that differ by rounding alone are equal."""

from __future__ import annotations

from typing import Any

from torch import Tensor

TIE = 1e-12
"""Values within this fraction of the scale of the best are ties; the lowest index wins."""


def first_best(values: Any, scale: float = 0.0) -> int:
    """The lowest index whose value equals the largest, rounding aside.

    Equal candidates can come out of a matrix product with different last bits, depending on
    where in the matrix they stand, so an exact comparison would break ties by memory layout.

    Args:
        values: (n,) tensor or array, with -inf for what may not be chosen.
        scale: typical magnitude of what the values were summed from; at least that of the best.

    >>> import torch
    >>> first_best(torch.tensor([0.0, 1.0, 1.0 + 1e-15, -9.0], dtype=torch.float64))
    1
    """
    best = float(values.max())
    threshold = best - TIE * max(abs(best), scale)
    hits = values >= threshold
    return int(hits.int().argmax() if isinstance(hits, Tensor) else hits.argmax())
