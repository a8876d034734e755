"""Orthogonal matching pursuit on inner products, one Cholesky row a step.

Finds few atoms A_S and weights x that minimise ||t - A_S x||^2 + ridge ||x||^2: the atom that
correlates most with the residual joins, all weights are solved anew. With the inner products
known (Rubinstein et al., Batch-OMP, 2008), a step extends the Cholesky factor of A_S'A_S + ridge I
by one row instead of solving a least-squares problem from scratch. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from torch import Tensor

from lipt_cords.selectors.ties import first_best

Array = NDArray[np.float64]

DEPENDENT = 1e-10
"""An atom adds no direction when less than this fraction of its squared norm is new."""

_FIRST_ROWS = 64


@dataclass
class Pursuit:
    """What one pursuit found.

    Attributes:
        atoms: chosen atoms, in order of choice.
        weights: their weights, float64.
        residual: ||t - A_S x|| / ||t||, 0 for a zero target.
        stopped: ``"budget"``, ``"tolerance"``, ``"steps"``, or ``"exhausted"``: no atom left
            that is independent of the chosen ones and reduces the residual.
    """

    atoms: list[int] = field(default_factory=list)
    weights: Array = field(default_factory=lambda: np.zeros(0))
    residual: float = 1.0
    stopped: str = "budget"


def pursue(
    columns: Callable[[int], Tensor],
    target_products: Tensor,
    target_square: float,
    squared_norms: Tensor,
    budget: int,
    *,
    nonnegative: bool = True,
    ridge: float = 0.0,
    tolerance: float = 1e-4,
    max_steps: int | None = None,
    allowed: Tensor | None = None,
) -> Pursuit:
    """Match a target by at most ``budget`` of n atoms.

    Args:
        columns: inner products of one atom with all, (n,) float64.
        target_products: inner products of all atoms with the target, (n,) float64.
        target_square: squared norm of the target.
        squared_norms: of the atoms, (n,) float64.
        budget: atoms at most, at least 1.
        nonnegative: keep weights >= 0: while some are negative, the most negative atom leaves
            and the rest are solved again (as CORDS does).
        ridge: lambda >= 0.
        tolerance: stop once the relative residual is below it.
        max_steps: atoms that may join in all, those that leave again counted; None for no bound
            but ``10 * budget``, which ends a pursuit in which atoms come and go for ever.
        allowed: (n,) bool, the atoms that may be chosen; None for all.

    Returns:
        The atoms; fewer than the budget if the pursuit stopped before.
    """
    found = Pursuit()
    if target_square <= 0 or not math.isfinite(target_square):
        found.residual, found.stopped = 0.0, "tolerance"
        return found
    factor = _Factor(ridge)
    support = _Columns(len(target_products), target_products.device)
    barred = torch.zeros_like(target_products)
    if allowed is not None:
        barred[~allowed] = -math.inf
    scale = math.sqrt(target_square * float(squared_norms.max()))
    steps = max_steps or 10 * budget
    while len(support.atoms) < budget:
        if found.residual < tolerance:
            found.stopped = "tolerance"
            break
        if steps == 0:
            found.stopped = "steps"
            break
        steps -= 1
        residual_products = support.residual_products(target_products, found.weights)
        values = residual_products if nonnegative else residual_products.abs()
        values = values + barred
        pick = first_best(values, scale)
        if not float(values[pick]) > 1e-13 * scale:
            found.stopped = "exhausted"
            break
        barred[pick] = -math.inf
        column = columns(pick)
        square = float(squared_norms[pick])
        if not factor.extend(support.at(column), square, float(target_products[pick])):
            continue  # depends on the chosen atoms: barred until one of them leaves
        support.append(pick, column)
        weights = factor.solve()
        if nonnegative and weights.min() < 0:
            left = _drop_negative(factor, support, weights)
            barred = _reopened(barred, allowed, support.atoms, pick, pick in left)
            weights = factor.solve()
        found.weights = weights
        found.residual = factor.residual(weights, target_square)
    found.atoms = list(support.atoms)
    return found


def _drop_negative(factor: _Factor, support: _Columns, weights: Array) -> list[int]:
    """Remove the most negative atom and solve again, until none is negative."""
    left = []
    while len(weights) and weights.min() < 0:
        position = int(weights.argmin())
        left.append(support.atoms[position])
        factor.remove(position)
        support.remove(position)
        weights = factor.solve()
    return left


def _reopened(
    barred: Tensor, allowed: Tensor | None, atoms: list[int], newest: int, newest_left: bool
) -> Tensor:
    """After atoms left, every other one may come again; not the newest if it left at once.

    Otherwise the same atom would join and leave for ever.
    """
    barred = torch.zeros_like(barred)
    if allowed is not None:
        barred[~allowed] = -math.inf
    barred[atoms] = -math.inf
    if newest_left:
        barred[newest] = -math.inf
    return barred


class _Columns:
    """Inner products of the chosen atoms with all, one row each, in a buffer that doubles."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.atoms: list[int] = []
        self._rows = torch.empty(0, size, dtype=torch.float64, device=device)

    def append(self, atom: int, column: Tensor) -> None:
        count = len(self.atoms)
        if count == len(self._rows):
            grown = self._rows.new_empty(max(_FIRST_ROWS, 2 * count), self._rows.shape[1])
            grown[:count] = self._rows
            self._rows = grown
        self._rows[count] = column
        self.atoms.append(atom)

    def remove(self, position: int) -> None:
        count = len(self.atoms)
        self._rows[position : count - 1] = self._rows[position + 1 : count].clone()
        del self.atoms[position]

    def at(self, column: Tensor) -> Array:
        """The entries of a column at the chosen atoms."""
        picked: Array = column[self.atoms].cpu().numpy()
        return picked

    def residual_products(self, target_products: Tensor, weights: Array) -> Tensor:
        """Inner products of all atoms with the residual, (n,)."""
        count = len(self.atoms)
        if count == 0:
            return target_products
        on_device = torch.from_numpy(weights).to(target_products.device)
        return torch.addmv(target_products, self._rows[:count].T, on_device, alpha=-1.0)


class _Factor:
    """Cholesky factor L of A_S'A_S + ridge I, and the weights that it solves for."""

    def __init__(self, ridge: float) -> None:
        self._ridge = ridge
        self._size = 0
        self._lower: Array = np.zeros((_FIRST_ROWS, _FIRST_ROWS))
        self._target: Array = np.zeros(_FIRST_ROWS)
        self._half: Array = np.zeros(_FIRST_ROWS)

    def extend(self, products: Array, square: float, target_product: float) -> bool:
        """Add one atom; False, and nothing changes, if it depends on those before."""
        n = self._size
        if n == len(self._target):
            self._grow()
        row = products
        if n:
            row = solve_triangular(self._lower[:n, :n], products, lower=True, check_finite=False)
        pivot = square + self._ridge - float(row @ row)
        if not pivot > DEPENDENT * (square + self._ridge):
            return False
        root = math.sqrt(pivot)
        self._lower[n, :n], self._lower[n, n] = row, root
        self._target[n] = target_product
        self._half[n] = (target_product - float(row @ self._half[:n])) / root
        self._size += 1
        return True

    def remove(self, position: int) -> None:
        """Take one atom out: rows after it are re-triangularised by a rank-one update."""
        n = self._size
        lower = self._lower[:n, :n]
        after = lower[position + 1 :, position + 1 :]
        gone = lower[position + 1 :, position]
        updated = np.linalg.cholesky(after @ after.T + np.outer(gone, gone)) if len(gone) else after
        self._lower[position : n - 1, :position] = lower[position + 1 :, :position].copy()
        self._lower[position : n - 1, position : n - 1] = updated
        self._target[position : n - 1] = self._target[position + 1 : n].copy()
        self._size = n - 1
        if self._size:
            self._half[: n - 1] = solve_triangular(
                self._lower[: n - 1, : n - 1], self._target[: n - 1], lower=True, check_finite=False
            )

    def solve(self) -> Array:
        """The least-squares weights of the chosen atoms."""
        n = self._size
        if n == 0:
            return np.zeros(0)
        weights: Array = solve_triangular(
            self._lower[:n, :n], self._half[:n], lower=True, trans="T", check_finite=False
        )
        return weights

    def residual(self, weights: Array, target_square: float) -> float:
        """Relative residual norm: ||t - Ax||^2 = ||t||^2 - x'A't - ridge ||x||^2."""
        n = self._size
        square = target_square - float(weights @ self._target[:n])
        square -= self._ridge * float(weights @ weights)
        return math.sqrt(max(0.0, square) / target_square)

    def _grow(self) -> None:
        n = self._size
        lower = np.zeros((2 * n, 2 * n))
        lower[:n, :n] = self._lower
        self._lower = lower
        self._target = np.concatenate([self._target, np.zeros(n)])
        self._half = np.concatenate([self._half, np.zeros(n)])
