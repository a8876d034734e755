from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import dense, pool, repeated

from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.atoms import FactoredAtoms
from lipt_cords.selectors.base import select
from lipt_cords.selectors.gradmatch.omp import pursue
from lipt_cords.selectors.gradmatch.pursuit import Pursuit
from lipt_cords.selectors.gradmatch.screened import (
    ScreenedAtoms,
    ScreenedSupport,
    pursue_screened,
    screening_bytes,
    slots_of,
)


def in_float64(
    gradients: LastLayerGradients, linear: bool, budget: int, ridge: float,
    tolerance: float, allowed: torch.Tensor | None,
) -> Pursuit:  # fmt: skip
    atoms = FactoredAtoms.of(gradients, torch.arange(len(gradients)), linear, 1 << 30)
    products, square = atoms.own_sum()
    return pursue(
        atoms.column, products, square, atoms.squared_norms(), budget, ridge=ridge,
        tolerance=tolerance, allowed=allowed,
    )  # fmt: skip


@settings(max_examples=60)
@given(
    samples=st.integers(2, 120),
    classes=st.integers(2, 5),
    width=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    ridge=st.sampled_from([0.0, 0.5]),
    tolerance=st.sampled_from([0.0, 1e-4]),
    linear=st.booleans(),
    copies=st.integers(1, 2),
    share=st.floats(0.02, 1.0),
    barred=st.booleans(),
)
def test_a_pass_in_float32_changes_no_choice(
    samples: int, classes: int, width: int, seed: int, ridge: float, tolerance: float,
    linear: bool, copies: int, share: float, barred: bool,
) -> None:  # fmt: skip
    gradients = repeated(pool(samples, classes, width, seed), copies)
    size = len(gradients)
    rank = np.linalg.matrix_rank(dense(gradients, linear).numpy())
    # Beyond the rank the residual is rounding, and so is every choice by it.
    budget = max(1, min(int(share * size), rank // 2))
    allowed = None
    if barred:
        allowed = torch.arange(size) % 3 != 0
    wanted = in_float64(gradients, linear, budget, ridge, tolerance, allowed)
    atoms = ScreenedAtoms(gradients, torch.arange(size), linear, None)
    found = pursue_screened(atoms, budget, ridge=ridge, tolerance=tolerance, allowed=allowed)
    if wanted.residual < 1e-6:  # nothing but rounding is left
        assert found.residual < 1e-6
        return
    assert found.atoms == wanted.atoms
    assert found.stopped == wanted.stopped
    np.testing.assert_allclose(found.residual, wanted.residual, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        found.weights, wanted.weights, rtol=1e-5, atol=1e-6 * abs(wanted.weights).max(initial=0.0)
    )


def test_nearly_equal_candidates_are_told_apart_in_float64() -> None:
    """Copies that differ by one float32 step: float32 products cannot order them."""
    twins = repeated(pool(40, 3, 6, 1), 2)
    twins.embeddings[40:] = torch.nextafter(twins.embeddings[40:], torch.tensor(1e9))
    wanted = in_float64(twins, True, 12, 0.0, 1e-4, None)
    atoms = ScreenedAtoms(twins, torch.arange(80), True, None)
    assert pursue_screened(atoms, 12).atoms == wanted.atoms


def test_slots_are_freed_when_atoms_that_left_fill_them() -> None:
    atoms = ScreenedAtoms(pool(200, 4, 12, 3), torch.arange(200), True, None)
    support = ScreenedSupport(atoms, 0.0, 4, None)
    for atom in range(slots_of(4) + 8):  # the third atom is replaced again and again
        assert support.extend(atom)
        if len(support.atoms) == 4:
            support.remove(2)
        pick, value = support.best()
        chosen = dense(pool(200, 4, 12, 3))
        some = chosen[support.atoms]
        residual = chosen.sum(dim=0) - torch.from_numpy(support.weights.copy()) @ some
        products = chosen @ residual
        np.testing.assert_allclose(value / atoms.unit**2, float(products[pick]), rtol=1e-4)


@pytest.mark.parametrize(
    ("limit", "knob"), [(60_000, "none"), (21_000, "float64 copies in chunks")]
)
def test_the_answer_does_not_depend_on_the_path(limit: int, knob: str) -> None:
    """Where the float32 copies do not fit, nothing is screened."""
    gradients = pool(400, 4, 16, 5)
    for count in (86, 98, 103, 113):  # samples of a class
        assert screening_bytes(count, 4 + 16, 13) > limit // 2
    screened = select("gradmatch", gradients, 60)
    full = select("gradmatch", gradients, 60, memory_limit=limit)
    assert {summary["knob"] for summary in full.info["groups"]} == {knob}
    assert torch.equal(screened.indices, full.indices)
    torch.testing.assert_close(screened.weights, full.weights, rtol=1e-4, atol=1e-5)
