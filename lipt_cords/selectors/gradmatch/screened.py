"""Matching pursuit that looks at all candidates in float32 and decides in float64.

A step of `omp.pursue` reads a Gram column and all rows before it for every candidate, only to find
the best one. Here that pass is in float32, with half the bytes, and a bound on its rounding says
whether the best is certain. If it is not, all correlations are taken once in float64, and later
steps are measured from there: their rounding then shrinks with the residual. Weights, residuals
and what is independent come from the Gram matrix of the chosen samples, in float64. So the choice
is that of float64, bounds being rounding errors that behave like random ones (Higham and Mary, A
new approach to probabilistic rounding error analysis, 2019).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lipt_cords.models.gradients import HeadGradient, LastLayerGradients
from lipt_cords.selectors.gradmatch.pursuit import DEPENDENT, Pursuit, follow
from lipt_cords.selectors.memory import Scratch
from lipt_cords.selectors.ties import TIE, first_best

Array = NDArray[np.float64]
Single = NDArray[np.float32]

_ROUNDOFF = 2.0**-24


def slots_of(budget: int) -> int:
    """Gram rows kept: of the chosen atoms and of some that left and may come again."""
    return budget + budget // 4 + 16


def screening_bytes(candidates: int, width: int, budget: int) -> int:
    """Bytes that screening takes; ``width`` is C + E."""
    slots = slots_of(budget)
    return candidates * (12 * (width + 1) + 4 * slots) + slots * (16 * slots + 8 * (width + 1))


class ScreenedAtoms:
    """Samples of a group on the CPU and the gradient that they should add up to, in a common unit.

    Args:
        gradients: of the pool.
        members: the samples of the group.
        linear_layer: whether the weight part counts.
        goal: what to match; None for the sum of the samples.
        scratch: memory, which the next group reuses; None for its own.
    """

    def __init__(
        self,
        gradients: LastLayerGradients,
        members: Tensor,
        linear_layer: bool,
        goal: HeadGradient | None,
        scratch: Scratch | None = None,
    ) -> None:
        self.scratch = scratch or Scratch()
        size = len(members)
        width = gradients.embedding_dim if linear_layer else 0
        classes = gradients.num_classes
        single, array = np.float32, self.scratch.array
        self.g_CN: Single = array("g_CN", classes, size, dtype=single)
        self.e_EN: Single = array("e_EN", width + 1, size, dtype=single)
        self.g_NC: Array = array("g_NC", size, classes)
        self.e_NE: Array = array("e_NE", size, width + 1)
        self.g_NC[:] = gradients.logit_grads[members].numpy()
        # With a last entry of one, e . e' is the factor 1 + e . e' of a Gram entry.
        self.e_NE[:, width] = 1.0
        if linear_layer:
            self.e_NE[:, :width] = gradients.embeddings[members].numpy()
        self.squares_N: Array = _row_squares(self.g_NC) * _row_squares(self.e_NE)
        # A power of two: no rounding changes, and float32 holds the products of any gradients.
        self.unit = 2.0 ** -math.frexp(math.sqrt(float(self.squares_N.max())))[1]
        self.g_NC *= self.unit
        self.squares_N *= self.unit**2
        self.g_CN[:], self.e_EN[:] = self.g_NC.T, self.e_NE.T
        if goal is None:
            self.target_CE: Array = self.g_NC.T @ self.e_NE
        else:
            bias: Array = goal.bias.double().numpy()[:, None]
            parts = [goal.weight.double().numpy(), bias] if linear_layer else [bias]
            self.target_CE = np.concatenate(parts, axis=1) * self.unit
        self.target_square = float(np.vdot(self.target_CE, self.target_CE))
        self.products_N = self.against(self.target_CE)

    def __len__(self) -> int:
        return len(self.g_NC)

    def against(self, target_CE: Array) -> Array:
        """Inner products of all samples with one dense gradient."""
        products: Array = np.einsum("nc,nc->n", self.g_NC, self.e_NE @ target_CE.T)
        return products


def _row_squares(rows: Array) -> Array:
    squares: Array = np.einsum("nc,nc->n", rows, rows)
    return squares


def pursue_screened(
    atoms: ScreenedAtoms,
    budget: int,
    *,
    ridge: float = 0.0,
    tolerance: float = 1e-4,
    max_steps: int | None = None,
    allowed: Tensor | None = None,
) -> Pursuit:
    """Match the atoms' target with weights >= 0; the arguments and the answer of `omp.pursue`."""
    if atoms.target_square <= 0 or not math.isfinite(atoms.target_square):
        return Pursuit(residual=0.0, stopped="tolerance")
    support = ScreenedSupport(atoms, ridge * atoms.unit**2, budget, allowed)
    return follow(support, budget, nonnegative=True, tolerance=tolerance, max_steps=max_steps)


class ScreenedSupport:
    """The chosen atoms; weights never negative when a step begins. See `pursuit.Support`.

    Every atom that ever joined has a slot: its float32 row of the Gram matrix, and its float64
    products with the other slots. The support is a list of slots, in order of choice, and some
    root R of its inverse Gram matrix, (A_S'A_S + ridge I)^-1 = R'R: atoms join by a row of the
    inverse Cholesky factor and leave by a reflection, so nothing is ever factored again.
    """

    def __init__(
        self, atoms: ScreenedAtoms, ridge: float, budget: int, allowed: Tensor | None
    ) -> None:
        self.atoms: list[int] = []
        self._of, self._ridge = atoms, ridge
        size, slots = len(atoms), slots_of(budget)
        self._slot_of: dict[int, int] = {}
        self._slots: NDArray[np.intp] = np.zeros(slots, dtype=np.intp)
        self._in_order = True  # the support fills the first slots, one after the other
        array = atoms.scratch.array
        self._rows_SN: Single = array("rows", slots, size, dtype=np.float32)
        self._gram_SS: Array = array("gram", slots, slots)
        self._g_SC: Array = array("g_SC", slots, atoms.g_NC.shape[1])
        self._e_SE: Array = array("e_SE", slots, atoms.e_NE.shape[1])
        self._lengths_S: Array = np.empty(slots)
        self._root: Array = array("root", budget, budget)
        self._root[:] = 0.0
        self._weights: Array = np.zeros(budget)
        self._explained = 0.0
        self._shut: Single = np.zeros(size, dtype=np.float32)
        if allowed is not None:
            self._shut[~allowed.numpy()] = -math.inf
        self._longest = math.sqrt(float(atoms.squares_N.max()))
        self.scale = math.sqrt(atoms.target_square) * self._longest
        self._other: Single = np.empty(size, dtype=np.float32)
        self._rough: Single = np.empty(size, dtype=np.float32)
        c, e = atoms.g_NC.shape[1], atoms.e_NE.shape[1]
        self._terms = math.sqrt(c) + math.sqrt(e) + math.sqrt(slots) + 4.0
        self._measured_from(atoms.products_N)

    @property
    def weights(self) -> Array:
        """The least-squares weights of the chosen atoms."""
        return self._weights[: len(self.atoms)]

    def _measured_from(self, exact_N: Array) -> None:
        """Take exact correlations as the start from which later ones are measured."""
        self._exact = exact_N.astype(np.float32)
        self._base = self._exact + self._shut
        self._base[self.atoms] = -math.inf
        self._anchor_S: Array = np.zeros(len(self._lengths_S))
        self._anchor_S[self._slots[: len(self.atoms)]] = self.weights
        self._largest = float(np.abs(exact_N).max())

    def best(self) -> tuple[int, float]:
        """The atom that correlates most with the residual, among those not barred."""
        rough = self._rough
        used = len(self._slot_of)
        if used:
            if self._in_order:
                moved = self._anchor_S[:used] - self._weights[:used]
            else:
                moved = self._anchor_S[:used].copy()
                moved[self._slots[: len(self.atoms)]] -= self.weights
            np.dot(moved.astype(np.float32), self._rows_SN[:used], out=rough)
            rough += self._base
            spread = float(np.abs(moved) @ self._lengths_S[:used]) * self._terms + self._largest
            margin = 2.0 * _ROUNDOFF * spread * self._longest + TIE * self.scale
        else:
            np.copyto(rough, self._base)
            margin = 4.0 * _ROUNDOFF * self._largest + TIE * self.scale
        pick = int(rough.argmax())
        value = float(rough[pick])
        rough[pick] = -math.inf
        if value > margin and value - float(rough[rough.argmax()]) > margin:
            return pick, value
        return self._compared(rough)

    def _compared(self, barred: Single) -> tuple[int, float]:
        """The choice by float64, when float32 cannot decide."""
        chosen = self._slots[: len(self.atoms)]
        weighted = self._g_SC[chosen] * self.weights[:, None]
        exact = self._of.against(self._of.target_CE - weighted.T @ self._e_SE[chosen])
        open_N = np.isfinite(self._base)
        self._measured_from(exact)
        values = np.where(open_N, exact, -math.inf)
        self._base[~open_N] = -math.inf
        pick = first_best(values, self.scale)
        return pick, float(values[pick])

    def bar(self, atom: int) -> None:
        """The atom may not be chosen until others are opened again."""
        self._base[atom] = -math.inf

    def open_but(self, shut: list[int]) -> None:
        """Every allowed atom may be chosen but these."""
        np.add(self._exact, self._shut, out=self._base)
        self._base[shut] = -math.inf

    def extend(self, atom: int) -> bool:
        """Add one atom; False, and nothing changes, if it depends on those before."""
        n, of = len(self.atoms), self._of
        slot = self._slot_of.get(atom)
        if slot is None:
            slot = self._new_slot(atom)
        if slot != n:
            self._in_order = False
        along = self._gram_SS[slot, :n] if self._in_order else self._gram_SS[slot][self._slots[:n]]
        root, weights = self._root[:n, :n], self._weights
        row = root.dot(along)
        square = float(of.squares_N[atom]) + self._ridge
        pivot = square - float(row.dot(row))
        if not pivot > DEPENDENT * square:
            self._in_order = False  # its slot stays
            return False
        fresh = math.sqrt(pivot)
        half = (float(of.products_N[atom]) - float(along.dot(weights[:n]))) / fresh
        newest = self._root[n, : n + 1]
        row.dot(root, out=newest[:n])
        newest[:n] /= -fresh
        newest[n] = 1.0 / fresh
        weights[n] = 0.0
        weights[: n + 1] += half * newest
        self._slots[n] = slot
        self._explained += half * half
        self.atoms.append(atom)
        return True

    def _new_slot(self, atom: int) -> int:
        if len(self._slot_of) == len(self._lengths_S):
            self._forget()
        slot, of = len(self._slot_of), self._of
        self._slot_of[atom] = slot
        row, g, e = self._rows_SN[slot], of.g_NC[atom], of.e_NE[atom]
        np.dot(e.astype(np.float32), of.e_EN, out=row)
        np.dot(g.astype(np.float32), of.g_CN, out=self._other)
        row *= self._other
        self._g_SC[slot], self._e_SE[slot] = g, e
        products = self._e_SE[: slot + 1].dot(e)
        products *= self._g_SC[: slot + 1].dot(g)
        self._gram_SS[slot, : slot + 1] = products
        self._gram_SS[: slot + 1, slot] = products
        self._lengths_S[slot] = math.sqrt(float(of.squares_N[atom]))
        return slot

    def _forget(self) -> None:
        """Free the slots of atoms that left; correlations are measured anew without them."""
        n = len(self.atoms)
        kept = self._slots[:n].copy()
        for values in (self._rows_SN, self._g_SC, self._e_SE, self._lengths_S):
            values[:n] = values[kept]
        self._gram_SS[:n, :n] = self._gram_SS[np.ix_(kept, kept)]
        self._slots[:n] = np.arange(n)
        self._slot_of = {atom: slot for slot, atom in enumerate(self.atoms)}
        open_N = np.isfinite(self._base)
        weighted = self._g_SC[:n] * self.weights[:, None]
        self._measured_from(self._of.against(self._of.target_CE - weighted.T @ self._e_SE[:n]))
        self._base[~open_N] = -math.inf
        self._in_order = True

    def remove(self, position: int) -> None:
        """Take one atom out and solve for the weights of the others."""
        last = len(self.atoms) - 1
        root = self._root[: last + 1, : last + 1]
        # A reflection turns this atom's column into a multiple of the last axis: without the
        # last row and that column, a root of the inverse is left for the others.
        mirror = root[:, position].copy()
        length = math.sqrt(float(mirror.dot(mirror)))
        mirror[last] += math.copysign(length, float(mirror[last]))
        root -= np.multiply.outer(mirror, mirror.dot(root) * (2.0 / float(mirror.dot(mirror))))
        root[:last, position:last] = root[:last, position + 1 :]
        root[last] = 0.0
        root[:, last] = 0.0
        del self.atoms[position]
        self._in_order = False
        self._slots[position:last] = self._slots[position + 1 : last + 1]
        half = root[:last, :last].dot(self._of.products_N[self.atoms])
        half.dot(root[:last, :last], out=self._weights[:last])
        self._explained = float(half.dot(half))

    def residual(self) -> float:
        """Relative residual norm: ||t - Ax||^2 = ||t||^2 - |y|^2 - ridge |x|^2."""
        square = self._of.target_square - self._explained
        if self._ridge:
            square -= self._ridge * float(self.weights @ self.weights)
        return math.sqrt(max(0.0, square) / self._of.target_square)
