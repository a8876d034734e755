"""Shards are disjoint, stratified, exact, and the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords.data.splits import balanced_order
from lipt_cords.warmstart.prepare.shards import check_shards, make_shards


@settings(max_examples=60)
@given(
    classes=st.lists(st.integers(0, 6), min_size=1, max_size=120),
    workers=st.integers(1, 9),
    fraction=st.floats(0.05, 1.0),
    seed=st.integers(0, 5),
)
def test_shards_are_disjoint_and_balanced(classes, workers, fraction, seed):
    labels = torch.tensor(classes)
    dealt = round(fraction * len(labels))
    if dealt < workers:
        with pytest.raises(ValueError, match="lower num_workers or raise shard_fraction"):
            make_shards(labels, workers, fraction, seed)
        return
    shards = make_shards(labels, workers, fraction, seed)
    together = torch.cat(shards)
    assert len(together) == len(together.unique()) == dealt
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    counts = torch.stack([torch.bincount(labels[shard], minlength=7) for shard in shards])
    assert int((counts.amax(0) - counts.amin(0)).max()) <= 1
    expected = torch.bincount(labels, minlength=7) * dealt / len(labels)
    assert float((counts.sum(0) - expected).abs().max()) <= 2


def test_all_samples_are_used_when_workers_do_not_divide_them():
    shards = make_shards(torch.arange(101) % 10, num_workers=7)
    assert torch.cat(shards).sort().values.equal(torch.arange(101))
    assert {len(shard) for shard in shards} == {14, 15}


def test_seed_decides_and_repeats():
    labels = torch.arange(60) % 3
    one, two, other = (make_shards(labels, 4, 0.5, seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(one, two, strict=True))
    assert not all(a.equal(b) for a, b in zip(one, other, strict=True))


def test_more_workers_than_samples_is_refused():
    with pytest.raises(ValueError, match="5 workers need at least one sample each.*leaves 4"):
        make_shards(torch.arange(4), num_workers=5)


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 2, "shard_fraction": 0}])
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match="num_workers|shard_fraction"):
        make_shards(torch.arange(4), **options)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    equal=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_prefix_of_a_balanced_order_is_balanced(sizes, equal, seed):
    sizes = torch.tensor([sizes[0]] * len(sizes) if equal else sizes)
    labels = torch.arange(len(sizes)).repeat_interleave(sizes)
    order = balanced_order(labels, torch.Generator().manual_seed(seed))
    assert order.sort().values.equal(torch.arange(len(labels)))
    counts = torch.nn.functional.one_hot(labels[order]).cumsum(0)
    shares = torch.arange(1, len(labels) + 1)[:, None] * sizes / len(labels)
    most = torch.ones(len(sizes)) if equal else 1 + sizes * len(sizes) / len(labels)
    assert ((counts - shares).abs() <= most + 1e-4).all()


@settings(max_examples=60)
@given(samples=st.integers(1, 60), workers=st.integers(1, 7), data=st.data())
def test_shards_of_a_user_come_back_ascending(samples, workers, data):
    order = data.draw(st.permutations(range(samples)))
    dealt = [order[worker::workers] for worker in range(min(workers, samples))]
    form = data.draw(st.sampled_from([list, torch.tensor, lambda s: torch.tensor(s).int()]))
    found = check_shards([form(shard) for shard in dealt], len(dealt), samples)
    assert [shard.tolist() for shard in found] == [sorted(shard) for shard in dealt]
    assert {shard.dtype for shard in found} == {torch.int64}


def test_a_shard_may_be_a_mask_and_samples_may_be_left_out():
    mask = torch.tensor([True, False, False, True])
    found = check_shards([mask, [2]], num_workers=2, samples=4)
    assert [shard.tolist() for shard in found] == [[0, 3], [2]]


def test_what_was_dealt_here_passes():
    shards = make_shards(torch.arange(50) % 3, num_workers=4, shard_fraction=0.7)
    found = check_shards(shards, num_workers=4, samples=50)
    assert all(one.equal(other) for one, other in zip(found, shards, strict=True))


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (
            [[0]],
            "expected one shard for each of 2 workers, received 1: set num_workers to their number",
        ),
        ([[0], [1], [2]], "expected one shard for each of 2 workers, received 3: set num_workers"),
        ([[0], []], "the shard of worker 1 is empty: every worker needs a sample"),
        ([[False] * 5, [1]], "the shard of worker 0 is empty: every worker needs a sample"),
        ([[0], [5]], r"indices must lie in \[0, 5\), received 5"),
        ([[-1, 2], [0]], r"indices must lie in \[0, 5\), received -1"),
        ([[0], [0.5]], "indices must be integers or a mask, received torch.float32"),
        ([[0], [True, False]], "a mask needs 5 entries, one an item, received 2"),
        ([[0, 3], [3, 1]], "sample 3 is in the shards 2 times: shards must be disjoint"),
        ([[0, 4, 4, 4], [1]], "sample 4 is in the shards 3 times: shards must be disjoint"),
    ],
)
def test_shards_that_cannot_be_used_are_explained(shards, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check_shards(shards, num_workers=2, samples=5)
