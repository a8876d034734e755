"""A radial kernel, and features whose inner products approximate it (Nystroem)."""

from __future__ import annotations

import torch
from torch import Tensor

from lipt_cords.base.randomness import generator

CHUNK, NEAREST_CHUNK = 4_096, 10_000
BANDWIDTH = 2.0
"""The kernel falls to 1/e where the squared distance is so many times the median one."""
MEDIAN_ROWS = 500
JITTER = 1e-5
LARGEST_ERROR = 1e-4
"""Of the kernel, by rounding of distances between rows far from the mean; beyond it, float64."""


class RadialKernel:
    """k(a, b) = exp(-|a - b|^2 / (2 m)), with m the median squared distance between rows.

    Args:
        rows: (N, F) float32 that the median is taken of; 500 of them, drawn at random.
        seed: of the draw.

    Attributes:
        scale: what squared distances are multiplied by.
        dtype: in which distances are computed, float32 where that is precise enough.
    """

    def __init__(self, rows: Tensor, seed: int = 0) -> None:
        draws = generator(seed, "kernel", "median")
        some = rows[torch.randperm(len(rows), generator=draws)[:MEDIAN_ROWS]]
        longest = max(float(part.square().sum(dim=1).max()) for part in torch.split(rows, CHUNK))
        self.dtype, self.scale = torch.float32, _scale(some)
        if longest * self.scale * torch.finfo(torch.float32).eps > LARGEST_ERROR:
            self.dtype, self.scale = torch.float64, _scale(some.double())

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """(n, m) values between rows, in ``dtype``."""
        one, other = one.to(self.dtype), other.to(self.dtype)
        return squared_distances(one, other).mul_(-self.scale).exp_()


def _scale(rows: Tensor) -> float:
    distances = squared_distances(rows, rows)
    apart = distances[~torch.eye(len(rows), dtype=torch.bool)]
    median = float(apart.median()) if len(apart) else 1.0
    if median <= 0:  # most rows are equal: those that differ set the scale
        above = apart[apart > 0]
        median = float(above.median()) if len(above) else 1.0
    return 1.0 / (BANDWIDTH * median)


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) squared distances between rows, not below 0."""
    lengths = (other * other).sum(dim=1) + (one * one).sum(dim=1)[:, None]
    return torch.addmm(lengths, one, other.T, alpha=-2.0).clamp_(min=0.0)


def nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """The place of the nearest centre for every row, (n,); the lowest one on ties."""
    parts = torch.split(rows, NEAREST_CHUNK)
    return torch.cat([squared_distances(part, centres).argmin(dim=1) for part in parts])


def nystroem(rows: Tensor, landmarks: int, seed: int = 0) -> Tensor:
    """Features whose inner products are the radial kernel, exactly between landmarks.

    Args:
        rows: (N, F) float32.
        landmarks: how many rows, drawn at random, stand for all; at most N.
        seed: of the draws.

    Returns:
        (N, landmarks) float32. Williams and Seeger, NeurIPS 2000.
    """
    kernel = RadialKernel(rows, seed)
    draws = generator(seed, "kernel", "landmarks")
    chosen = rows[torch.randperm(len(rows), generator=draws)[:landmarks].sort().values]
    factor, failed = torch.linalg.cholesky_ex(_with_jitter(kernel(chosen, chosen).double()))
    if failed:  # many landmarks near each other: rounding makes a negative eigenvalue
        kernel.dtype = torch.float64
        factor = torch.linalg.cholesky(_with_jitter(kernel(chosen, chosen)))
    inverse = torch.linalg.inv(factor).to(kernel.dtype)
    found = torch.empty(len(rows), len(chosen))
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = kernel(rows[part], chosen) @ inverse.T
    return found


def _with_jitter(between: Tensor) -> Tensor:
    between.diagonal().add_(JITTER)
    return between
