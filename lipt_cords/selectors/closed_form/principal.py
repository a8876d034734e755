"""Principal directions of features, by a randomised method, in chunks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator

CHUNK = 16_384
FITTED = 4_000
"""Rows that directions are fitted to."""
OVERSAMPLED, ITERATIONS = 20, 1
MODERATE = (1e-12, 1e12)
"""Largest entries whose squares, and sums of millions of them, float32 holds."""


def principal(values_NF: Tensor, width: int, seed: int = 0) -> Tensor:
    """Rows in coordinates of the first principal directions, centred.

    The directions are those of a random part of the rows, by subspace iteration (Halko et al.,
    2011). Rows that are no wider than that are only centred.

    Args:
        values_NF: (N, F) float32.
        width: directions at most.
        seed: of the draws.

    Returns:
        (N, min(F, width)) float32, on another scale if values are huge or tiny.
    """
    draws = generator(seed, "principal")
    values_NF = of_moderate_size(values_NF)
    count, features = values_NF.shape
    if count > FITTED:
        some = values_NF[torch.randperm(count, generator=draws)[:FITTED].sort().values]
    else:
        some = values_NF
    mean = some.double().mean(dim=0).float()
    if features <= width:
        return values_NF - mean
    some = some - mean
    start = torch.randn(features, min(width + OVERSAMPLED, features), generator=draws)
    basis = torch.linalg.qr(some.T @ (some @ start)).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(some.T @ (some @ basis)).Q
    within = some @ basis
    vectors = torch.linalg.eigh(within.double().T @ within.double()).eigenvectors
    directions = basis @ vectors[:, -width:].flip(1).float()
    rows = torch.empty(count, width)
    for start_row in range(0, count, CHUNK):
        part = slice(start_row, start_row + CHUNK)
        rows[part] = (values_NF[part] - mean) @ directions
    return rows


def of_moderate_size(rows: Tensor) -> Tensor:
    """Rows over a power of two where squares of their entries do not fit into float32.

    What depends on ratios of distances alone stays as it is.
    """
    size = max(float(part.abs().max()) for part in torch.split(rows, CHUNK))
    if size == 0 or MODERATE[0] < size < MODERATE[1]:
        return rows
    exponent = math.frexp(size)[1]
    halves = exponent // 2, exponent - exponent // 2  # one power might not be finite
    return rows * 2.0 ** -halves[0] * 2.0 ** -halves[1]
