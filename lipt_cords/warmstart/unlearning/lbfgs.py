"""Products with a quasi-Newton Hessian, from a few pairs of steps and gradient changes."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class CompactHessian:
    """The BFGS matrix of the last pairs; products need no explicit matrix.

    It starts from sigma I, sigma = y's / s's of the newest pair, and is updated with every pair in
    order (Byrd, Nocedal, Schnabel, Representations of quasi-Newton matrices, 1994, theorem 2.3).

    Args:
        memory: number of pairs that are kept, m.

    >>> hessian = CompactHessian(2)
    >>> hessian.add(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
    True
    >>> hessian.product(torch.tensor([1.0, 1.0])).tolist()
    [2.0, 2.0]
    """

    def __init__(self, memory: int = 2) -> None:
        self.memory = memory
        self._steps: deque[Tensor] = deque(maxlen=memory)
        self._changes: deque[Tensor] = deque(maxlen=memory)
        self._parts: tuple[Tensor, Tensor, Tensor, float] | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: Tensor, change: Tensor) -> bool:
        """Add a pair; one without positive curvature is skipped, and False is returned.

        Args:
            step: s, shape (d,).
            change: of the gradient along it, y, shape (d,).
        """
        curvature, size = float(step @ change), float(step @ step)
        if not curvature > 1e-12 * size or size == 0.0:
            return False
        self._steps.append(step.clone())
        self._changes.append(change.clone())
        self._parts = None
        return True

    def product(self, vector: Tensor) -> Tensor:
        """B v: sigma v - [Y, sigma S] M^-1 [Y'v ; sigma S'v].

        Args:
            vector: shape (d,).
        """
        if not self._steps:
            raise ValueError("a Hessian product needs at least one pair: add one first")
        if self._parts is None:
            self._parts = self._factor()
        steps, changes, middle, sigma = self._parts
        right = torch.cat([changes.T @ vector, sigma * (steps.T @ vector)])
        solved: Tensor = torch.linalg.solve(middle, right)
        count = len(self._steps)
        corrected: Tensor = changes @ solved[:count] + sigma * (steps @ solved[count:])
        return sigma * vector - corrected

    def _factor(self) -> tuple[Tensor, Tensor, Tensor, float]:
        steps, changes = torch.stack(list(self._steps), 1), torch.stack(list(self._changes), 1)
        newest, change = steps[:, -1], changes[:, -1]
        sigma = float((change @ newest) / (newest @ newest))
        across = steps.T @ changes
        diagonal, lower = torch.diag(across.diag()), across.tril(-1)
        top = torch.cat([-diagonal, lower.T], 1)
        bottom = torch.cat([lower, sigma * (steps.T @ steps)], 1)
        return steps, changes, torch.cat([top, bottom]), sigma
