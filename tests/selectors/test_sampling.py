"""Selectors that draw or rank: random, RS2, importance, stratified, norms."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import dense, pool, zeroed
from torch import Tensor

from lipt_cords.selectors.base import select
from lipt_cords.selectors.importance import inclusion_probabilities, systematic_sample
from lipt_cords.selectors.stratified_cuts import suggested_cut


def test_rs2_visits_everything_once_before_anything_twice() -> None:
    labels = torch.tensor([0, 1] * 20)
    epochs = [select("rs2", labels, 8, epoch=epoch, seed=1).indices for epoch in range(10)]
    first, second = torch.cat(epochs[:5]), torch.cat(epochs[5:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(40))
    assert not torch.equal(first, second)
    assert all(int((labels[e] == 0).sum()) == 4 for e in epochs)
    with pytest.raises(ValueError, match="epoch"):
        select("rs2", labels, 8, epoch=-1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 99),
    start=st.floats(0.01, 1),
    until=st.floats(0, 1),
    epochs=st.integers(1, 12),
    data=st.data(),
)
def test_a_curriculum_goes_from_the_easiest_to_all(
    seed: int, start: float, until: float, epochs: int, data: st.DataObject
) -> None:
    draws = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 0, 1] * 12)
    scores = torch.rand(36, generator=draws)
    budget = data.draw(st.integers(3, 36))
    last = 0.0
    for epoch in range(epochs):
        chosen = select(
            "curriculum", labels, budget, scores=scores, epoch=epoch, epochs=epochs, start=start,
            until=until, seed=seed,
        )  # fmt: skip
        share = chosen.info["share"]
        assert last <= share <= 1 and (epoch > 0 or share == (start if until else 1))
        last = share
        assert len(chosen) == len(set(chosen.indices.tolist())) == budget
        for label in (0, 1):
            own = scores[labels == label].sort().values
            picked = scores[chosen.indices[labels[chosen.indices] == label]]
            offered = max(len(picked), round(share * len(own)))
            assert len(picked) == 0 or picked.max() <= own[offered - 1]
    if until < 1:
        after = select("curriculum", labels, 9, scores=scores, epoch=epochs, epochs=epochs)
        assert after.info["share"] == 1


def test_a_curriculum_over_all_visits_everything_and_refuses_nonsense() -> None:
    labels = torch.tensor([0, 1] * 20)
    scores = torch.arange(40.0)
    epochs = [
        select("curriculum", labels, 8, scores=scores, epoch=e, epochs=10, until=0).indices
        for e in range(5)
    ]
    assert sorted(torch.cat(epochs).tolist()) == list(range(40))
    for options, message in (
        ({"start": 0}, "start in"),
        ({"until": 1.5}, "until in"),
        ({"epoch": -1}, "epoch"),
        ({"epochs": 0}, "epochs"),
        ({"scores": scores[1:]}, "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            select("curriculum", labels, 8, **{"scores": scores, **options})


def test_random_seeds_differ_and_batches_stay_whole() -> None:
    labels = torch.zeros(40, dtype=torch.int64)
    assert not torch.equal(
        select("random", labels, 10, seed=0).indices, select("random", labels, 10, seed=1).indices
    )
    chosen = select("random", labels, 10, per="batch", batch_size=5).indices
    assert chosen.view(2, 5).diff(dim=1).eq(1).all() and (chosen.view(2, 5)[:, 0] % 5 == 0).all()


def expectation(chances: Tensor, budget: int, order: Tensor, values: Tensor) -> Tensor:
    """Exact expectation of the weighted sum over the uniform start, between its breakpoints."""
    ends = chances[order].cumsum(0)
    breaks = torch.cat([torch.zeros(1), torch.ones(1), ends % 1.0]).unique().double()
    total = torch.zeros(values.shape[1], dtype=torch.float64)
    for low, high in itertools.pairwise(breaks):
        picked = systematic_sample(chances, budget, float((low + high) / 2), order)
        assert len(set(picked.tolist())) == budget
        total += (high - low) * (values[picked] / chances[picked, None]).sum(dim=0)
    return total


@settings(max_examples=30)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.0, 7.3, 40.0]), min_size=2, max_size=15),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_importance_weights_are_unbiased_whatever_the_scores(
    scores: list[float], seed: int, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, len(scores)))
    values = dense(pool(len(scores), 2, 2, seed))
    weights = torch.tensor(scores, dtype=torch.float64)
    values[weights == 0] = 0.0  # what is never drawn must have nothing to say
    chances = inclusion_probabilities(weights, budget)
    assert float(chances.sum()) == pytest.approx(budget) and (chances <= 1).all()
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
    if bool((chances > 0).all()) or int((weights > 0).sum()) >= budget:
        torch.testing.assert_close(
            expectation(chances, budget, order, values), values.sum(dim=0), rtol=1e-6, atol=1e-6
        )


def test_importance_on_average_over_seeds_and_its_convention() -> None:
    gradients = pool(60, 3, 4, 2)
    atoms = dense(gradients)
    draws = [select("importance", gradients, 20, seed=seed) for seed in range(400)]
    means = torch.stack([(d.weights[:, None] * atoms[d.indices]).mean(dim=0) for d in draws])
    spread = means.std(dim=0) / len(draws) ** 0.5
    assert ((means.mean(dim=0) - atoms.mean(dim=0)).abs() < 4.5 * spread + 1e-9).all()
    uniform = torch.stack(
        [atoms[select("random", gradients, 20, seed=s).indices].mean(dim=0) for s in range(400)]
    )
    assert float(means.var(dim=0).sum()) < float(uniform.var(dim=0).sum())


def test_importance_bounds_weights_and_refuses_bad_scores() -> None:
    gradients = pool(60, 3, 4, 2)
    chosen = select("importance", gradients, 20, smoothing=0.5)
    assert chosen.info["largest_weight"] <= (1 + 0.5) / 0.5 + 0.2
    assert len(select("importance", zeroed(gradients), 20)) == 20
    with pytest.raises(ValueError, match="non-negative"):
        select("importance", gradients, 20, scores=-torch.ones(60))
    with pytest.raises(ValueError, match="smoothing"):
        select("importance", gradients, 20, smoothing=-1)
    with pytest.raises(ValueError, match=r"shape \(60,\)"):
        select("importance", gradients, 20, scores=torch.ones(59))


@pytest.mark.parametrize(("name", "linear_layer"), [("grand", True), ("el2n", False)])
def test_norms_take_the_largest(name: str, linear_layer: bool) -> None:
    gradients = pool(40, 3, 4, 3)
    norms = dense(gradients, linear_layer).norm(dim=1)
    chosen = select(name, gradients, 9, per="all")
    assert chosen.indices.tolist() == norms.argsort(descending=True)[:9].tolist()
    torch.testing.assert_close(chosen.scores, norms[chosen.indices].float())
    ties = select(name, gradients, 4, per="all", scores=torch.ones(40))
    assert ties.indices.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bins", ["quantile", "width"])
def test_stratified_covers_what_is_left_after_the_cut(bins: str) -> None:
    gradients = pool(100, 2, 4, 4)
    scores = torch.arange(100.0)
    chosen = select("stratified", gradients, 20, per="all", cut=0.4, scores=scores, bins=bins)
    values = scores[chosen.indices]
    assert float(values.max()) < 60 and chosen.info["cut"] == 0.4
    width = 3.0 if bins == "quantile" else 59 / 20
    counts = torch.bincount((values / width).long().clamp(max=19), minlength=20)
    assert counts.tolist() == [1] * 20
    crowded = torch.cat([torch.zeros(90), torch.linspace(1, 10, 10)])
    spread = select("stratified", gradients, 20, per="all", cut=0, scores=crowded, strata=10,
                    bins="width").indices  # fmt: skip
    assert int((spread >= 90).sum()) == 10, "rare difficulties are all kept"


def test_a_cut_leaves_room_for_the_budget() -> None:
    gradients = pool(20, 2, 4, 4)
    assert len(select("stratified", gradients, 19, cut=0.9)) == 19
    for cut, match in ((1.0, "cut"), (-0.1, "cut"), ("half", "auto"), (float("nan"), "cut")):
        with pytest.raises(ValueError, match=match):
            select("stratified", gradients, 3, cut=cut)


def test_the_rule_follows_both_data_sets_that_were_measured() -> None:
    pool_ = pool(2000, 10, 4, labels=torch.arange(2000) % 10)
    # CIFAR-10, 20,000 images, a warm model of 53.6 %; Fashion-MNIST, one of 79.6 %.
    for budget, accuracy, low, high in (
        (200, 0.536, 0.3, 0.5), (1000, 0.536, 0.1, 0.3), (2000, 0.536, 0.1, 0.3),
        (200, 0.796, 0.0, 0.0), (1000, 0.796, 0.0, 0.0),
    ):  # fmt: skip
        info = select("stratified", pool_, budget, accuracy=accuracy).info
        assert low <= info["cut"] <= high and info["evidence"] == "accuracy"
    known = select("stratified", pool_, 200, expected_accuracy=0.32).info
    assert known["cut"] == 0.5 == suggested_cut(0.32) and known["evidence"] == "expected_accuracy"
    free = select("stratified", pool_, 200).info
    assert free["evidence"] == "pool accuracy"
    assert free["accuracy"] == pytest.approx(float(pool_.correct().float().mean()))
    judged = select("stratified", pool_, 200, val_gradients=pool(50, 10, 4, 9)).info
    assert judged["evidence"] == "validation accuracy"


def test_a_pilot_decides_and_its_cost_is_counted() -> None:
    gradients = pool(100, 2, 4, 4)
    scores = torch.arange(100.0)

    def prefers_easy(indices: Tensor) -> tuple[float, float]:
        return -float(scores[indices].mean()), 10.0 * len(indices)

    easy = select("stratified", gradients, 20, per="all", scores=scores, pilot=prefers_easy)
    assert easy.info["cut"] == 0.5 and easy.info["pilot_passes"] == 5 * 200
    assert easy.info["pilot_calls"] == 5 and float(scores[easy.indices].max()) < 50
    hard = select(
        "stratified", gradients, 20, per="all", scores=scores, pilot=lambda i: 1.0,
        pilot_cuts=(0.4,),
    )  # fmt: skip
    assert hard.info["cut"] == 0.0, "no cut is always a candidate, and wins ties"


def test_without_a_cut_the_automatic_subset_is_the_random_one() -> None:
    """So that evidence against cutting cannot make it a worse method than random."""
    gradients = pool(200, 4, 3, 4)
    automatic = select("stratified", gradients, 40, pilot=lambda indices: 0.5, seed=3)
    assert automatic.info["cut"] == 0.0
    assert torch.equal(automatic.indices, select("random", gradients, 40, seed=3).indices)


def test_of_equals_up_to_the_error_the_smallest_cut_is_taken() -> None:
    gradients, worth = pool(200, 4, 3, 4), iter([0.70, 0.709, 0.712])
    options = {"pilot_cuts": (0.2, 0.5), "pilot": lambda indices: (next(worth), 10, 0.005)}
    info = select("stratified", gradients, 40, **options).info
    assert info["cut"] == 0.2 and info["pilot_error"] == 0.005
    assert info["pilot"] == {"0.0": 0.70, "0.2": 0.709, "0.5": 0.712}
