from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import dense, pool, repeated, zeroed

from lipt_cords.selectors.base import select


def brute_force(
    atoms: np.ndarray, target: np.ndarray, budget: int, *, nonnegative: bool, ridge: float
) -> tuple[list[int], np.ndarray, float]:
    """OMP by dense least squares from scratch at every step; the smallest relative gap."""
    chosen: list[int] = []
    weights = np.zeros(0)
    gap = float("inf")
    for _ in range(budget):
        residual = target - atoms[chosen].T @ weights
        if np.linalg.norm(residual) < 1e-4 * np.linalg.norm(target):
            break
        values = atoms @ residual if nonnegative else np.abs(atoms @ residual)
        values[chosen] = -np.inf
        order = np.argsort(-values, kind="stable")
        if len(order) > 1 and np.isfinite(values[order[1]]):
            gap = min(gap, (values[order[0]] - values[order[1]]) / abs(values[order[0]]))
        chosen.append(int(order[0]))
        while True:
            some = atoms[chosen]
            weights = np.linalg.solve(some @ some.T + ridge * np.eye(len(chosen)), some @ target)
            if not nonnegative or weights.min() >= 0:
                break
            del chosen[int(weights.argmin())]
    return chosen, weights, gap


@settings(max_examples=40)
@given(
    samples=st.integers(2, 25),
    classes=st.integers(2, 5),
    width=st.integers(2, 6),
    seed=st.integers(0, 10**6),
    ridge=st.sampled_from([0.0, 0.5]),
    nonnegative=st.booleans(),
    data=st.data(),
)
def test_one_round_is_dense_orthogonal_matching_pursuit(
    samples: int, classes: int, width: int, seed: int, ridge: float, nonnegative: bool,
    data: st.DataObject,
) -> None:  # fmt: skip
    gradients = pool(samples, classes, width, seed)
    atoms = dense(gradients).numpy()
    budget = data.draw(st.integers(1, max(1, np.linalg.matrix_rank(atoms) // 2)))
    wanted, weights, gap = brute_force(
        atoms, atoms.sum(axis=0), budget, nonnegative=nonnegative, ridge=ridge
    )
    chosen = select(
        "gradmatch", gradients, budget, per="all", nonnegative=nonnegative, ridge=ridge,
        max_steps=budget,
    )  # fmt: skip
    if gap > 1e-6 and chosen.info["groups"][0]["rounds"] == [budget] and len(wanted) == budget:
        assert chosen.indices.tolist() == wanted
        scaled = chosen.weights.double().numpy() * samples / budget
        np.testing.assert_allclose(scaled, weights, rtol=1e-4, atol=1e-4 * abs(weights).max())
        residual = np.linalg.norm(atoms.sum(axis=0) - atoms[wanted].T @ weights)
        relative = residual / np.linalg.norm(atoms.sum(axis=0))
        assert chosen.info["groups"][0]["residual"] == pytest.approx(relative, abs=1e-6)


def test_atoms_leave_and_the_factor_stays_right() -> None:
    """Many drops in a row: the weights are those of a dense solve on the final support."""
    for seed in range(12):
        gradients = pool(60, 3, 3, seed)
        chosen = select("gradmatch", gradients, 9, per="all", tolerance=0.0)
        first = chosen.info["groups"][0]["rounds"][0]
        atoms = dense(gradients).numpy()
        some = atoms[chosen.indices[:first].numpy()]
        weights = np.linalg.lstsq(some.T, atoms.sum(axis=0), rcond=None)[0]
        mine = chosen.weights[:first].double().numpy()  # up to the round's share
        np.testing.assert_allclose(mine / mine.sum(), weights / weights.sum(), rtol=1e-3, atol=1e-4)
        assert (weights > -1e-6).all()


def test_weights_stand_for_the_mean_gradient() -> None:
    gradients = pool(80, 3, 6, 2)
    chosen = select("gradmatch", gradients, 24, per="all")
    atoms = dense(gradients)
    estimate = (chosen.weights.double()[:, None] * atoms[chosen.indices]).mean(dim=0)
    error = (estimate - atoms.mean(dim=0)).norm() / atoms.mean(dim=0).norm()
    assert float(error) < 0.05


@pytest.mark.parametrize("per", ["class", "all"])
def test_a_budget_above_the_rank_is_matched_in_rounds_and_reported(per: str) -> None:
    """Bias gradients of C classes have rank C - 1: OMP alone cannot fill the budget."""
    gradients = pool(60, 4, 5, 3)
    first, second = (
        select("gradmatch", gradients, 30, per=per, linear_layer=False, seed=seed)
        for seed in (0, 1)
    )
    assert torch.equal(first.indices, second.indices), "nothing is filled at random"
    for summary in first.info["groups"]:
        assert summary["rounds"][0] <= 4 and len(summary["rounds"]) > 1
        assert summary["stopped"] in ("tolerance", "exhausted")
        assert sum(summary["rounds"]) + summary["unmatched"] == summary["budget"]
    atoms = dense(gradients, linear_layer=False)
    estimate = (first.weights.double()[:, None] * atoms[first.indices]).mean(dim=0)
    scale = atoms.norm(dim=1).mean()
    assert float((estimate - atoms.mean(dim=0)).norm() / scale) < 0.02


def test_what_points_away_comes_last_with_weight_zero() -> None:
    gradients = pool(12, 2, 2, 5, labels=torch.tensor([0] * 11 + [1]))
    chosen = select("gradmatch", gradients, 12, per="all", linear_layer=False)
    (summary,) = chosen.info["groups"]
    assert summary["unmatched"] == 1
    assert int(chosen.indices[-1]) == 11 and float(chosen.weights[-1]) == 0.0


def test_duplicates_are_passed_over_within_a_round() -> None:
    twins = repeated(pool(6, 3, 4, 4), 3)
    chosen = select("gradmatch", twins, 5, per="all", tolerance=0.0)
    first = chosen.info["groups"][0]["rounds"][0]
    assert len({i % 6 for i in chosen.indices[:first].tolist()}) == first
    assert (chosen.indices[:first] < 6).all(), "the lowest index stands for its copies"


def test_zero_gradients_and_budgets_at_the_ends() -> None:
    nothing = select("gradmatch", zeroed(pool(6)), 4, per="all")
    assert nothing.indices.tolist() == [0, 1, 2, 3] and (nothing.weights == 1).all()
    gradients = pool(6, 3, 8)
    everything = select("gradmatch", gradients, 6, per="all", tolerance=0.0)
    assert sorted(everything.indices.tolist()) == list(range(6))
    one = select("gradmatch", gradients, 1, per="all")
    atoms = dense(gradients)
    assert int(one.indices[0]) == int((atoms @ atoms.sum(dim=0)).argmax())


def test_the_validation_set_as_target() -> None:
    gradients, held_out = pool(50, 3, 4, 6), pool(20, 3, 4, 7)
    chosen = select(
        "gradmatch", gradients, 12, val_gradients=held_out, per="all", target="validation"
    )
    estimate = (chosen.weights.double()[:, None] * dense(gradients)[chosen.indices]).mean(dim=0)
    goal = dense(held_out).mean(dim=0)
    (summary,) = chosen.info["groups"]
    error = float((estimate - goal).norm() / goal.norm())
    assert error <= summary["residual_bound"] + 1e-6 and error < 0.05
    assert len(summary["rounds"]) == 2, "the rank is nine: the last three match in a second round"


def test_chunks_give_the_same_choice_and_too_little_memory_is_refused() -> None:
    gradients = pool(300, 3, 40, 8)
    free = select("gradmatch", gradients, 20, per="all")
    tight = select("gradmatch", gradients, 20, per="all", memory_limit=80_000)
    assert tight.info["groups"][0]["knob"] == "float64 copies in chunks"
    assert torch.equal(free.indices, tight.indices)
    with pytest.raises(ValueError, match="per='class'"):
        select("gradmatch", gradients, 200, per="all", memory_limit=80_000)


def test_bad_options_are_refused() -> None:
    for options, match in (
        ({"ridge": -1.0}, "ridge"),
        ({"tolerance": 1.5}, "tolerance"),
        ({"target": "val"}, "target"),
        ({"target": "validation"}, "val_gradients"),
        ({"max_steps": 0}, "max_steps"),
    ):
        with pytest.raises(ValueError, match=match):
            select("gradmatch", pool(9), 2, **options)
