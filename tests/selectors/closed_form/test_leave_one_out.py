"""The closed form against refits, and its bad inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords.selectors.closed_form import leave_one_out
from lipt_cords.selectors.closed_form import ridge as ridge_file
from lipt_cords.selectors.closed_form.kernel import RadialKernel, nystroem
from lipt_cords.selectors.closed_form.principal import principal


def refits(rows: np.ndarray, labels: np.ndarray, penalty: float, weights: np.ndarray) -> np.ndarray:
    """Every sample's prediction by a weighted ridge with intercept on all others."""
    classes = np.unique(labels)
    onehot = (labels[:, None] == classes).astype(float)
    found = np.empty_like(onehot)
    for left_out in range(len(rows)):
        keep = np.arange(len(rows)) != left_out
        x = np.hstack([rows[keep], np.ones((keep.sum(), 1))])
        ridge = penalty * np.eye(x.shape[1])
        ridge[-1, -1] = 0.0
        w = weights[keep, None]
        solution = np.linalg.solve(x.T @ (w * x) + ridge, x.T @ (w * onehot[keep]))
        found[left_out] = np.append(rows[left_out], 1.0) @ solution
    return found


def penalty_of(rows: np.ndarray, weights: np.ndarray, strength: float) -> float:
    mean = weights @ rows / weights.sum()
    centred = rows - mean
    return strength * np.trace(centred.T @ (weights[:, None] * centred)) / rows.shape[1]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(4, 30), width=st.integers(1, 12), classes=st.integers(2, 4),
    strength=st.sampled_from([1e-3, 0.1, 3.0]), balanced=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_closed_form_is_what_refits_predict(count, width, classes, strength, balanced, seed):
    draws = np.random.default_rng(seed)
    rows = draws.normal(size=(count, width)).astype(np.float32)
    labels = np.arange(count) % classes * 3
    found = leave_one_out(rows, labels, ridge=strength, balanced=balanced)
    counts = np.bincount(labels)[labels]
    weights = count / classes / counts if balanced else np.ones(count)
    wide = rows.astype(np.float64)
    expected = refits(wide, labels, penalty_of(wide, weights, strength), weights)
    np.testing.assert_allclose(found.predictions.numpy(), expected, atol=1e-6, rtol=0)
    likely = np.unique(labels)[expected.argmax(1)]
    assert np.mean(found.likely.numpy() == likely) > 0.99 or count < 5


def test_more_features_than_samples_are_what_refits_predict() -> None:
    rows = np.random.default_rng(0).normal(size=(15, 60)).astype(np.float32)
    labels = np.arange(15) % 3
    found = leave_one_out(rows, labels, ridge=0.01)
    wide = rows.astype(np.float64)
    expected = refits(wide, labels, penalty_of(wide, np.ones(15), 0.01), np.ones(15))
    np.testing.assert_allclose(found.predictions.numpy(), expected, atol=1e-6, rtol=0)


def test_the_ridge_is_the_one_of_least_leave_one_out_error() -> None:
    rows = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    labels = (
        rows[:, 0] + 0.5 * torch.randn(200, generator=torch.Generator().manual_seed(1)) > 0
    ).long()
    found = leave_one_out(rows, labels)
    errors = {}
    for strength in (found.ridge / 10**0.5, found.ridge, found.ridge * 10**0.5):
        errors[strength] = leave_one_out(rows, labels, ridge=strength).error
    assert min(errors, key=errors.get) == found.ridge
    assert errors[found.ridge] == pytest.approx(found.error)


def test_chunks_change_nothing(monkeypatch) -> None:
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(300) % 5
    whole = leave_one_out(rows, labels)
    monkeypatch.setattr("lipt_cords.selectors.closed_form.ridge.CHUNK", 64)
    parts = leave_one_out(rows, labels)
    torch.testing.assert_close(whole.predictions, parts.predictions, atol=1e-10, rtol=0)


def test_probabilities_are_calibrated_on_the_labels() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 2
    rows = (2.0 * labels - 1)[:, None] + 2 * torch.randn(2000, 1, generator=draws)
    found = leave_one_out(rows, labels)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(2000).double())
    sure = found.probabilities.amax(1)
    for low, high in ((0.5, 0.7), (0.7, 0.9)):
        band = (sure > low) & (sure <= high)
        right = (found.likely == labels)[band].double().mean()
        assert abs(float(right - sure[band].mean())) < 0.06
    assert torch.equal(found.loss.argsort(), (-found.margin).argsort(descending=True))


def test_a_kernel_tells_what_is_not_linear() -> None:
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 2, generator=draws)
    labels = (rows.norm(dim=1) > 1.1).long()
    assert leave_one_out(rows, labels).accuracy < 0.75
    first = leave_one_out(rows, labels, kernel="rbf", landmarks=200, seed=3)
    assert first.accuracy > 0.93
    again = leave_one_out(rows, labels, kernel="rbf", landmarks=200, seed=3)
    assert torch.equal(first.predictions, again.predictions)


def test_landmarks_have_the_kernel_itself_as_inner_products() -> None:
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    mapped = nystroem(rows, 40)
    torch.testing.assert_close(mapped @ mapped.T, RadialKernel(rows)(rows, rows), atol=1e-3, rtol=0)


def test_principal_directions_keep_the_most_variance() -> None:
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 30, generator=draws) * torch.linspace(5, 0.1, 30)
    kept = principal(rows, 6)
    exact = torch.linalg.svdvals(rows - rows.mean(0))[:6]
    torch.testing.assert_close(kept.norm(dim=0), exact, rtol=1e-2, atol=0)


def test_float32_tells_the_same_difficulties() -> None:
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 8, generator=draws) * torch.logspace(0, -2, 8) + 3.0
    labels = (rows[:, 0] + 0.5 * torch.randn(300, generator=draws) > 3.0).long()
    for ridge in ("auto", 1e-3):
        exact = leave_one_out(rows, labels, ridge=ridge)
        fast = leave_one_out(rows, labels, ridge=ridge, precision="float32")
        assert fast.ridge == exact.ridge and fast.predictions.dtype == torch.float64
        torch.testing.assert_close(fast.margin, exact.margin, atol=1e-4, rtol=0)


def test_what_is_kept_between_two_passes_changes_nothing(monkeypatch) -> None:
    rows = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(100) % 3
    monkeypatch.setattr(ridge_file, "CHUNK", 16)
    found = leave_one_out(rows, labels)
    monkeypatch.setattr(ridge_file, "KEPT", 0)
    again = leave_one_out(rows, labels)
    assert found.ridge == again.ridge and torch.equal(found.predictions, again.predictions)


@pytest.mark.parametrize(
    ("rows", "labels", "options", "words"),
    [
        (torch.rand(4, 2), [0, 1, 0], {}, "one row of features for each of 3"),
        (torch.rand(3, 2), [1, 1, 1], {}, "at least two classes"),
        (torch.ones(3, 2), [0, 1, 1], {}, "are equal"),
        (torch.tensor([[1.0], [torch.nan], [0.0]]), [0, 1, 1], {}, r"samples \[1\] are NaN"),
        (torch.rand(3, 2, 2), [0, 1, 1], {}, r"shape \(samples, features\)"),
        (torch.rand(3, 2), [0, 1, 1], {"ridge": 0.0}, "above 0"),
        (torch.rand(3, 2), [0, 1, 1], {"kernel": "rfb"}, "Did you mean 'rbf'"),
        (torch.rand(3, 2), [0, 1, 1], {"kernel": "rbf", "landmarks": 0}, "landmarks"),
        (torch.rand(3, 2), [0, 1, 1], {"precision": "float23"}, "Did you mean 'float32'"),
        (torch.rand(3, 2), [0.5, 1, 1], {}, "labels"),
    ],
)  # fmt: skip
def test_bad_input_is_named(rows, labels, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        leave_one_out(rows, labels, **options)


def test_features_beyond_memory_are_refused_before_work(monkeypatch) -> None:
    monkeypatch.setattr("lipt_cords.selectors.closed_form.ridge.free_bytes", lambda _: 10**6)
    with pytest.raises(ValueError, match="bring fewer features"):
        leave_one_out(torch.rand(20, 300), torch.arange(20) % 2)


def test_a_class_of_one_sample_is_hard_and_harms_nobody() -> None:
    rows = torch.cat(
        [torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.full((1, 3), 9.0)]
    )
    labels = torch.cat([torch.arange(40) % 2, torch.tensor([7])])
    for balanced in (False, True):
        found = leave_one_out(rows, labels, balanced=balanced)
        assert bool(torch.isfinite(found.margin).all()) and int(found.likely[-1]) != 7


@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("balanced", [False, True])
def test_features_that_tell_a_rare_class_apart_give_no_warning(
    share: float, balanced: bool
) -> None:
    draws = torch.Generator().manual_seed(0)
    labels = (torch.rand(600, generator=draws) < share).long()
    rows = torch.randn(600, 4, generator=draws)
    said = leave_one_out(rows, labels, balanced=balanced).warning
    assert said is not None and "do not tell the classes apart" in said
    rows[:, 0] += 1.5 * labels  # too little to make the rare class the likely one
    assert leave_one_out(rows, labels, balanced=balanced).warning is None


@pytest.mark.parametrize("case", ["far rows", "equal columns", "far clumps"])
def test_landmarks_are_the_kernel_where_float32_does_not_tell_rows_apart(case) -> None:
    rows = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    if case == "far rows":
        rows = rows.exp() ** 3
    elif case == "equal columns":
        rows = rows[:, :1].expand(600, 99)
    else:
        rows[::2] += 3e4
    mapped, wide = nystroem(rows, 600), rows.double()
    apart = (wide[:, None] - wide).square().sum(dim=2)
    exact = (-RadialKernel(rows).scale * apart).exp()
    torch.testing.assert_close((mapped @ mapped.T).double(), exact, atol=3e-3, rtol=0)
