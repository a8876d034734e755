"""The signals of agreement against scipy, brute force and theory; and when they end the rounds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from lipt_cords.warmstart.watch.probe import Reading
from lipt_cords.warmstart.watch.stability import (
    Stability,
    measure_stability,
    pairwise_class_cosine,
    spearman,
    split_half_correlation,
)
from lipt_cords.warmstart.watch.stop_rule import StopRule, should_stop

NUMBERS = st.one_of(st.integers(0, 4).map(float), st.floats(-100, 100, width=32))


@settings(max_examples=100)
@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30))
def test_spearman_is_that_of_scipy_with_ties_too(pairs):
    one, other = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assume(len(one.unique()) > 1 and len(other.unique()) > 1)
    expected = float(spearmanr(one.numpy(), other.numpy()).statistic)
    assert spearman(one, other) == pytest.approx(expected, abs=1e-12)
    assert spearman(other, one) == spearman(one, other)


def test_a_constant_correlates_with_nothing():
    assert spearman(torch.full((7,), 0.1), torch.arange(7.0)) == 0
    assert spearman(torch.ones(3), torch.ones(3)) == 0


@settings(max_examples=40)
@given(replicas=st.integers(2, 6), classes=st.integers(1, 4), seed=st.integers(0, 99))
def test_pairwise_cosine_is_that_of_every_pair(replicas, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(classes, 5, generator=generator) for _ in range(replicas)]
    if seed % 3 == 0:
        gradients[0][0] = 0  # agrees with no other
    expected = [
        float(torch.cosine_similarity(one.double(), other.double(), dim=1).mean())
        for one, other in itertools.combinations(gradients, 2)
    ]
    found = pairwise_class_cosine(gradients)
    assert found == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_cosine_forgets_lengths_and_sees_opposites():
    row = torch.tensor([[3.0, 4.0]])
    assert pairwise_class_cosine([row, 100 * row]) == pytest.approx(1)
    assert pairwise_class_cosine([row, -row]) == pytest.approx(-1)
    assert pairwise_class_cosine([row, torch.tensor([[-4.0, 3.0]])]) == pytest.approx(0)


def replicas_of(count, noise, samples=4000):
    """Losses that are one signal, plus noise of every replica's own."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(samples, generator=generator, dtype=torch.float64)
    own = torch.randn(count, samples, generator=generator, dtype=torch.float64)
    return signal + noise * own


@pytest.mark.parametrize("count", [2, 3, 4, 9])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_split_halves_find_the_share_of_the_signal(count, noise):
    # Means of K/2 replicas correlate with r = 1 / (1 + noise^2 / (K/2)); of Gaussian variables
    # that is a rank correlation of 6/pi asin(r/2).
    pearson = 1 / (1 + noise**2 / (count // 2))
    found = split_half_correlation(replicas_of(count, noise), seed=0)
    assert found == pytest.approx(6 / math.pi * math.asin(pearson / 2), abs=0.04)


def test_more_noise_agrees_less_and_more_replicas_agree_more():
    by_noise = [split_half_correlation(replicas_of(6, s), 0) for s in (0.0, 0.3, 1.0, 3.0, 10.0)]
    assert by_noise[0] == pytest.approx(1)
    assert by_noise == sorted(by_noise, reverse=True)
    by_count = [split_half_correlation(replicas_of(k, 2.0), 0) for k in (2, 4, 8, 16, 32)]
    assert by_count == sorted(by_count)


def test_halves_of_two_replicas_are_the_replicas():
    losses = replicas_of(2, 1.0, samples=50)
    expected = pytest.approx(spearman(*losses))
    assert split_half_correlation(losses, seed=0) == expected
    assert split_half_correlation(losses, seed=1) == expected


def test_divisions_follow_the_seed_and_average_over_all():
    losses = replicas_of(4, 2.0, samples=30)
    same, other = split_half_correlation(losses, 5), split_half_correlation(losses, 6)
    assert same == split_half_correlation(losses, 5) != other
    expected = [
        spearman(losses[[0, a]].mean(0), losses[[b, c]].mean(0))
        for a, b, c in ((1, 2, 3), (2, 1, 3), (3, 1, 2))
    ]
    many = split_half_correlation(losses, 0, splits=600)
    spread = max(expected) - min(expected)
    assert many == pytest.approx(sum(expected) / 3, abs=spread / 10)


def reading(seed):
    generator = torch.Generator().manual_seed(seed)
    return Reading(torch.rand(20, generator=generator), 0.5, torch.randn(3, 4, generator=generator))


def test_a_round_is_measured_by_its_workers_and_its_merge():
    workers, merged, before = [reading(seed) for seed in range(4)], reading(8), reading(9)
    found = measure_stability(workers, merged, before, [], 100, seed=0)
    losses = torch.stack([one.losses for one in workers]).double()
    assert found.workers == 4
    assert found.class_cosine == pairwise_class_cosine([w.class_gradients for w in workers])
    assert found.rank_correlation == split_half_correlation(losses, 0)
    assert found.worker_loss == pytest.approx(sum(one.loss for one in workers) / 4)
    assert found.merged_loss == merged.loss
    assert found.round_correlation == spearman(merged.losses, before.losses)
    assert (found.critical_path_passes, found.benefit) == (100, None)


def test_benefit_is_the_fall_of_the_merged_loss_over_the_last_quarter_of_the_path():
    merges, earlier = [reading(seed) for seed in range(3)], []
    for passes, merged in zip((40, 60, 100), merges, strict=True):
        earlier.append(measure_stability([reading(5)], merged, None, earlier, passes, seed=0))
    assert [one.benefit for one in earlier[:2]] == [None, pytest.approx(
        1 - merges[1].loss / (merges[0].loss + (merges[1].loss - merges[0].loss) * 5 / 20)
    )]  # fmt: skip
    then = merges[1].loss + (merges[2].loss - merges[1].loss) * 15 / 40
    assert earlier[2].benefit == pytest.approx(1 - merges[2].loss / then)
    unmeasured = measure_stability([reading(5)], None, None, earlier, 200, seed=0)
    assert unmeasured.benefit is None


def test_one_worker_has_no_spread_and_the_first_merge_nothing_before_it():
    alone = measure_stability([reading(0)], reading(1), None, [], 100, seed=0)
    assert (alone.workers, alone.class_cosine, alone.rank_correlation) == (1, None, None)
    assert (alone.round_correlation, alone.benefit) == (None, None)
    assert alone.worker_loss == reading(0).loss
    once = measure_stability([reading(0), reading(1)], None, None, [], 100, seed=0)
    assert once.merged_loss is None
    assert not should_stop(StopRule(rank_correlation=-0.9), alone)


def measured(benefit, rank_correlation, class_cosine):
    return Stability(
        workers=4,
        critical_path_passes=100,
        class_cosine=class_cosine,
        rank_correlation=rank_correlation,
        worker_loss=1.0,
        merged_loss=1.0,
        round_correlation=None,
        benefit=benefit,
    )


MET = {"benefit": 0.04, "rank_correlation": 0.96, "class_cosine": 0.91}
MISSED = {"benefit": 0.05, "rank_correlation": 0.95, "class_cosine": 0.9}  # equal is not enough
RULE = {"benefit": 0.05, "rank_correlation": 0.95, "class_cosine": 0.9}


def test_all_given_conditions_must_hold_and_the_unknown_do_not():
    values = {"met": MET, "missed": MISSED, "unknown": dict.fromkeys(RULE)}
    for states in itertools.product(values, repeat=3):
        stands = dict(zip(RULE, states, strict=True))
        found = measured(**{name: values[state][name] for name, state in stands.items()})
        for size in (1, 2, 3):
            for wanted in itertools.combinations(RULE, size):
                rule = StopRule(**{name: RULE[name] for name in wanted})
                assert should_stop(rule, found) is all(stands[name] == "met" for name in wanted)
