"""Orthogonal matching pursuit on inner products, one Cholesky row a step.

Finds few atoms A_S and weights x that minimise ||t - A_S x||^2 + ridge ||x||^2: the atom that
correlates most with the residual joins, all weights are solved anew. With the inner products
known (Rubinstein et al., Batch-OMP, 2008), a step extends the Cholesky factor of A_S'A_S + ridge I
by one row instead of solving a least-squares problem from scratch; an atom that would make the
factor degenerate is passed over. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from torch import Tensor

from lipt_cords.selectors.gradmatch.pursuit import DEPENDENT, Pursuit, follow
from lipt_cords.selectors.ties import first_best

Array = NDArray[np.float64]

_FIRST_ROWS = 64


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
    if target_square <= 0 or not math.isfinite(target_square):
        return Pursuit(residual=0.0, stopped="tolerance")
    support = _FullSupport(
        columns, target_products, target_square, squared_norms, ridge, nonnegative, allowed
    )
    return follow(
        support, budget, nonnegative=nonnegative, tolerance=tolerance, max_steps=max_steps
    )


def _native(vector: Tensor) -> Any:
    """A CPU tensor as the array that shares its memory: small steps are thrice as fast."""
    return vector.numpy() if vector.device.type == "cpu" else vector


class _FullSupport:
    """The chosen atoms, orthogonalised: with A_S'A_S + ridge I = L L', what a step needs.

    Kept are Q = L^-1 A_S'A (its row for the newest atom is all that a step adds, and the residual
    products lose a multiple of it), y = L^-1 A_S't, and L^-1 itself, whose newest row updates the
    weights x = L^-T y. So a step costs O(n |S|) and solves nothing. The buffers double.
    """

    def __init__(
        self,
        columns: Callable[[int], Tensor],
        target_products: Tensor,
        target_square: float,
        squared_norms: Tensor,
        ridge: float,
        nonnegative: bool,
        allowed: Tensor | None,
    ) -> None:
        self.atoms: list[int] = []
        self.scale = math.sqrt(target_square * float(squared_norms.max()))
        self._columns, self._nonnegative, self._allowed = columns, nonnegative, allowed
        self._target_square, self._squares = target_square, squared_norms.cpu().numpy()
        self.residual_products = _native(target_products.clone())
        self._targets = target_products
        self._ridge = ridge
        self._rows = target_products.new_empty(0, len(target_products))
        self._native_rows = _native(self._rows)
        self._lower: Array = np.zeros((0, 0))
        self._inverse: Array = np.zeros((0, 0))
        self._half: Array = np.zeros(0)
        self._weights: Array = np.zeros(0)
        self.open_but([])

    @property
    def weights(self) -> Array:
        """The least-squares weights of the chosen atoms."""
        return self._weights[: len(self.atoms)]

    def best(self) -> tuple[int, float]:
        """The atom that correlates most with the residual, among those not barred."""
        products = self.residual_products
        values = (products if self._nonnegative else abs(products)) + self._barred
        pick = first_best(values, self.scale)
        return pick, float(values[pick])

    def bar(self, atom: int) -> None:
        """The atom may not be chosen until others are opened again."""
        self._barred[atom] = -math.inf

    def open_but(self, shut: list[int]) -> None:
        """Every allowed atom may be chosen but these."""
        barred = torch.zeros_like(self._targets)
        if self._allowed is not None:
            barred[~self._allowed] = -math.inf
        barred[shut] = -math.inf
        self._barred = _native(barred)

    def extend(self, atom: int) -> bool:
        """Add one atom; False, and nothing changes, if it depends on those before."""
        column, square = self._columns(atom), float(self._squares[atom])
        n = len(self.atoms)
        if n == len(self._half):
            self._grow()
        along = self._native_rows[:n, atom]
        row: Array = along.cpu().numpy() if isinstance(along, Tensor) else along
        pivot = square + self._ridge - float(row @ row)
        if not pivot > DEPENDENT * (square + self._ridge):
            return False
        root = math.sqrt(pivot)
        new = _native(column)
        new -= along @ self._native_rows[:n]
        new /= root
        self._native_rows[n] = new
        half = float(self.residual_products[atom]) / root
        self.residual_products -= half * new
        self._lower[n, :n], self._lower[n, n] = row, root
        self._half[n] = half
        inverse = self._inverse[n]
        np.matmul(row, self._inverse[:n, :n], out=inverse[:n])
        inverse[:n] /= -root
        inverse[n] = 1.0 / root
        self._weights[n] = 0.0
        self._weights[: n + 1] += half * inverse[: n + 1]
        self.atoms.append(atom)
        return True

    def remove(self, position: int) -> None:
        """Take one atom out: the rows after it are re-triangularised, L stays Cholesky."""
        n = len(self.atoms)
        lower, last = self._lower, n - 1
        gone = lower[position + 1 : n, position].copy()
        after = lower[position + 1 : n, position + 1 : n].copy()
        before = lower[position + 1 : n, :position].copy()
        del self.atoms[position]
        if last > position:
            updated = np.linalg.cholesky(after @ after.T + np.outer(gone, gone))
            mix = solve_triangular(updated, np.column_stack([gone, after]), lower=True)
            rows = torch.from_numpy(mix).to(self._rows.device) @ self._rows[position:n]
            self._rows[position:last] = rows
            lower[position:last, :position] = before
            lower[position:last, position:last] = updated
            self._half[position:last] = mix @ self._half[position:n]
        lower[last, :n] = 0.0
        some = slice(0, last)
        self._inverse[some, some] = solve_triangular(lower[some, some], np.eye(last), lower=True)
        self._weights[some] = self._inverse[some, some].T @ self._half[some]
        half = torch.from_numpy(self._half[some]).to(self._rows.device)
        products = torch.addmv(self._targets, self._rows[some].T, half, alpha=-1.0)
        self.residual_products = _native(products)

    def residual(self) -> float:
        """Relative residual norm: ||t - Ax||^2 = ||t||^2 - |y|^2 - ridge |x|^2."""
        half, weights = self._half[: len(self.atoms)], self.weights
        square = self._target_square - float(half @ half) - self._ridge * float(weights @ weights)
        return math.sqrt(max(0.0, square) / self._target_square)

    def _grow(self) -> None:
        n = len(self.atoms)
        size = max(_FIRST_ROWS, 2 * n)
        rows = self._rows.new_empty(size, self._rows.shape[1])
        rows[:n] = self._rows[:n]
        self._rows, self._native_rows = rows, _native(rows)
        lower, inverse = np.zeros((size, size)), np.zeros((size, size))
        lower[:n, :n], inverse[:n, :n] = self._lower[:n, :n], self._inverse[:n, :n]
        self._lower, self._inverse = lower, inverse
        self._half = np.concatenate([self._half[:n], np.zeros(size - n)])
        self._weights = np.concatenate([self._weights[:n], np.zeros(size - n)])
