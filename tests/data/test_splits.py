from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords.data.splits import balanced_sample, stratified_split

CLASSES = st.lists(st.integers(0, 4), min_size=2, max_size=60)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60)
@given(CLASSES, st.floats(0, 1), st.integers(0, 3))
def test_a_split_is_a_partition_in_proportion(classes, share, seed):
    labels = torch.tensor(classes)
    count = round(share * len(labels))
    rest, drawn = stratified_split(labels, count, draws(seed))
    assert sorted([*rest.tolist(), *drawn.tolist()]) == list(range(len(labels)))
    assert len(drawn) == count
    sizes = torch.bincount(labels, minlength=5)
    taken = torch.bincount(labels[drawn], minlength=5)
    assert ((taken - count * sizes / len(labels)).abs() <= 2.5).all()


@settings(max_examples=60)
@given(CLASSES, st.integers(1, 70))
def test_a_balanced_sample_is_as_equal_as_the_classes_allow(classes, count):
    labels = torch.tensor(classes)
    drawn = balanced_sample(labels, count, draws())
    assert len(drawn) == min(count, len(labels)) == len(set(drawn.tolist()))
    sizes = torch.bincount(labels, minlength=5)
    taken = torch.bincount(labels[drawn], minlength=5)
    short = taken < sizes  # classes with something left are within one of the fullest
    if short.any():
        assert taken[short].min() >= taken.max() - 1


def test_splits_follow_the_seed_alone():
    labels = torch.arange(200) % 7
    state = torch.get_rng_state()
    one, two, other = (stratified_split(labels, 50, draws(s))[1] for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert not torch.equal(balanced_sample(labels, 50, draws(1)), one)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, one.sort().values)
