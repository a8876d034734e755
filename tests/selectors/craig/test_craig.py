from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import dense, pool, repeated, zeroed
from torch import Tensor

from lipt_cords.selectors.atoms import BatchAtoms, FactoredAtoms
from lipt_cords.selectors.base import select
from lipt_cords.selectors.craig.facility import Distances, greedy_facilities


def similarities(atoms: Tensor) -> Tensor:
    distances = (atoms[:, None] - atoms[None]).square().sum(dim=2)
    return distances.max() - distances


def brute_force(kernel: Tensor, budget: int) -> tuple[list[int], float]:
    """Naive greedy facility location, and the smallest gap relative to the value."""
    best = torch.zeros(len(kernel), dtype=torch.float64)
    picks: list[int] = []
    gap = float("inf")
    for _ in range(budget):
        gains = (kernel - best).clamp(min=0).sum(dim=1)
        gains[picks] = -torch.inf
        order = gains.argsort(descending=True, stable=True)
        if len(order) > 1 and torch.isfinite(gains[order[1]]):
            scale = float(kernel.sum()) or 1.0
            gap = min(gap, float(gains[order[0]] - gains[order[1]]) / scale)
        picks.append(int(order[0]))
        best = torch.maximum(best, kernel[order[0]])
    return picks, gap


@settings(max_examples=40)
@given(
    samples=st.integers(1, 25),
    classes=st.integers(2, 4),
    width=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    linear_layer=st.booleans(),
    data=st.data(),
)
def test_greedy_is_the_brute_force_greedy_and_weights_count_clusters(
    samples: int, classes: int, width: int, seed: int, linear_layer: bool, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, samples))
    gradients = pool(samples, classes, width, seed)
    kernel = similarities(dense(gradients, linear_layer))
    wanted, gap = brute_force(kernel, budget)
    chosen = select("craig", gradients, budget, per="all", linear_layer=linear_layer)
    picks = chosen.indices.tolist()
    value = float(kernel[picks].max(dim=0).values.sum())
    assert chosen.info["groups"][0]["value"] == pytest.approx(value, rel=1e-9)
    assert float(chosen.weights.sum()) == pytest.approx(budget, rel=1e-5)
    if gap > 1e-9:
        assert picks == wanted
        sizes = torch.bincount(kernel[picks].argmax(dim=0), minlength=budget)
        sizes_found = (chosen.weights.double() * samples / budget).round()
        assert sizes_found.tolist() == sizes.tolist()


@pytest.mark.parametrize("limit", [None, 100_000])
def test_distances_kept_or_recomputed_choose_the_same(limit: int | None) -> None:
    gradients = pool(150, 3, 20, 4)
    chosen = select("craig", gradients, 20, per="all", memory_limit=limit)
    wanted, gap = brute_force(similarities(dense(gradients)), 20)
    assert gap > 1e-9 and chosen.indices.tolist() == wanted
    knob = "none" if limit is None else "distances recomputed in blocks"
    assert chosen.info["groups"][0]["knob"] == knob


def test_submodlib_agrees() -> None:
    gradients = pool(90, 3, 6, 5)
    mine = select("craig", gradients, 12)
    reference = select("craig", gradients, 12, engine="submodlib")
    assert torch.equal(mine.indices, reference.indices)
    assert torch.equal(mine.weights, reference.weights)
    values = [[g["value"] for g in chosen.info["groups"]] for chosen in (mine, reference)]
    assert values[0] == pytest.approx(values[1])


def test_duplicates_stand_for_themselves() -> None:
    twins = repeated(pool(4, 3, 4, 6), 2)
    chosen = select("craig", twins, 8, per="all")
    assert sorted(chosen.indices.tolist()) == list(range(8))
    assert (chosen.weights == 1).all()
    assert set(chosen.indices[:4].tolist()) == {0, 1, 2, 3}, "copies come last, by index"
    nothing = select("craig", zeroed(pool(6)), 3, per="all")
    assert nothing.indices.tolist() == [0, 1, 2]


def test_batches_in_blocks_of_classes_have_the_gram_matrix_of_their_means() -> None:
    gradients = pool(23, 5, 4, 7)
    means = torch.stack([part.mean(dim=0) for part in dense(gradients).split(4)])
    whole = BatchAtoms(gradients, 4, True, 1 << 20)
    blocks = BatchAtoms(gradients, 4, True, 8 * 6 * 6 + 1300)
    assert whole.block == 5 and blocks.block == 2
    every = torch.arange(6)
    torch.testing.assert_close(whole.inner(every), means @ means.T)
    torch.testing.assert_close(blocks.inner(every), means @ means.T)
    wanted, _ = brute_force(similarities(means), 2)
    chosen = select("craig", gradients, 8, per="batch", batch_size=4)
    samples = [s for b in wanted for s in range(4 * b, min(23, 4 * b + 4))]
    assert chosen.indices.tolist() == samples[:8]


def test_the_value_is_at_least_that_of_any_random_subset() -> None:
    gradients = pool(60, 3, 4, 8)
    kernel = similarities(dense(gradients))
    atoms = FactoredAtoms.of(gradients, torch.arange(60), True, 1 << 30)
    found = greedy_facilities(Distances(atoms, 1 << 30), 6)
    for seed in range(50):
        draw = torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:6]
        assert found.value >= float(kernel[draw].max(dim=0).values.sum())


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'torch'"):
        select("craig", pool(9), 2, engine="torhc")
    with pytest.raises(ValueError, match="90 batches needs about .*larger batches"):
        select("craig", pool(90), 9, per="batch", batch_size=1, memory_limit=8 * 90 * 90 - 1)
    with pytest.raises(ValueError, match="engine='torch'"):
        select("craig", pool(90), 9, per="all", engine="submodlib", memory_limit=10_000)
