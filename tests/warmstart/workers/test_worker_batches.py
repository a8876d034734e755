"""Epochs cover every sample once, leave no sample alone, and find bad inputs by name."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset
from warmstart_material import Streamed, make_images

from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.warmstart.workers.batches import Pool, WorkerBatches, channel_range


@pytest.mark.parametrize(
    ("samples", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (3, 4, [3]), (1, 4, [1]), (3, 1, [1] * 3)],
)
def test_an_epoch_covers_all_and_folds_a_lone_sample(samples, batch_size, sizes):
    data = TensorDataset(torch.arange(20.0), torch.zeros(20, dtype=torch.int64))
    worker_batches = WorkerBatches(data, torch.arange(samples) + 5, torch.device("cpu"))
    steps = steps_per_epoch(samples, batch_size)
    assert steps == len(sizes)
    epochs = worker_batches.epochs(batch_size, torch.Generator().manual_seed(0))
    for _ in range(2):
        batches = [x for x, _ in islice(epochs, steps)]
        assert [len(batch) for batch in batches] == sizes
        assert torch.cat(batches).sort().values.equal(torch.arange(samples) + 5.0)


def test_the_order_changes_between_epochs_and_follows_the_generator(train):
    def order(seed):
        worker_batches = WorkerBatches(train, torch.arange(32), torch.device("cpu"))
        batches = worker_batches.epochs(32, torch.Generator().manual_seed(seed))
        return [y for _, y in islice(batches, 2)]

    assert order(0)[0].equal(order(0)[0])
    assert not order(0)[0].equal(order(0)[1])
    assert not order(0)[0].equal(order(1)[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("streamed", [False, True])
def test_inputs_that_are_not_finite_are_named(value, streamed):
    data = make_images(60)
    data.tensors[0][41, 0, 3, 3] = value
    data.tensors[0][55] = value
    dataset = Streamed(data) if streamed else data
    shard_of = torch.arange(1, 60, 2)
    with pytest.raises(ValueError, match=r"sample (41|55) of the training data holds NaN"):
        worker_batches = WorkerBatches(dataset, shard_of, torch.device("cpu"))
        list(islice(worker_batches.epochs(7, torch.Generator().manual_seed(0)), 5))


def test_bad_samples_of_others_are_not_this_feeds_business():
    data = make_images(60)
    data.tensors[0][41] = float("nan")
    assert len(WorkerBatches(data, torch.arange(0, 60, 2), torch.device("cpu"))) == 30


def test_large_finite_inputs_pass():
    data = TensorDataset(torch.full((4, 3), 3e38), torch.zeros(4, dtype=torch.int64))
    assert len(WorkerBatches(data, torch.arange(4), torch.device("cpu"))) == 4


def test_channel_range_is_that_of_the_images(train):
    worker_batches = WorkerBatches(train, torch.arange(40), torch.device("cpu"))
    low, high = channel_range(worker_batches)
    assert low.tolist() == [float(train.tensors[0][:40].min())]
    assert high.tolist() == [float(train.tensors[0][:40].max())]


@pytest.mark.parametrize("form", [lambda data: data, Streamed])
def test_channel_range_covers_data_sorted_by_class(form):
    images = torch.arange(2.0).repeat_interleave(1100).reshape(-1, 1, 1, 1) * 50
    data = form(TensorDataset(images, images.flatten().long() // 50))
    low, high = channel_range(WorkerBatches(data, torch.arange(2200), torch.device("cpu")))
    assert abs(float(low)) < 1
    assert abs(float(high) - 50) < 1


def test_a_pool_gives_the_batches_that_a_feed_would_read_itself(train):
    cpu, shard = torch.device("cpu"), torch.arange(3, 90, 4)
    pool = Pool(train, torch.arange(1, 100), cpu)
    batches = [
        list(islice(worker_batches.epochs(5, torch.Generator().manual_seed(0)), 9))
        for worker_batches in (
            WorkerBatches(train, shard, cpu, pool),
            WorkerBatches(train, shard, cpu),
        )
    ]
    assert all(a[0].equal(b[0]) and a[1].equal(b[1]) for a, b in zip(*batches, strict=True))


def test_a_pool_without_some_of_the_samples_is_passed_over(train):
    cpu = torch.device("cpu")
    pool = Pool(train, torch.arange(10), cpu)
    for indices in ([8, 9, 10], [159]):
        wanted = torch.tensor(indices)
        assert pool.places_of(wanted) is None
        worker_batches = WorkerBatches(train, wanted, cpu, pool)
        assert worker_batches.source is not pool.source
        assert len(worker_batches) == len(indices)
    assert Pool(Streamed(train), torch.arange(10), cpu).places_of(torch.arange(3)) is None


def numbered(samples):
    return TensorDataset(torch.arange(float(samples)), torch.zeros(samples, dtype=torch.int64))


@settings(max_examples=100)
@given(samples=st.integers(1, 30), batch_size=st.integers(1, 9), skip=st.integers(0, 50))
def test_skipped_batches_are_those_of_the_unskipped_stream(samples, batch_size, skip):
    worker_batches = WorkerBatches(numbered(samples), torch.arange(samples), torch.device("cpu"))
    steps = 2 * steps_per_epoch(samples, batch_size) + 1
    skipped, whole = (
        islice(
            worker_batches.epochs(batch_size, torch.Generator().manual_seed(3), skip=count),
            steps + rest,
        )
        for count, rest in ((skip, 0), (0, skip))
    )
    expected = [inputs.tolist() for inputs, _ in whole][skip:]
    assert [inputs.tolist() for inputs, _ in skipped] == expected


def test_skipped_batches_of_a_stream_are_not_read():
    data = Streamed(make_images(20))
    worker_batches = WorkerBatches(data, torch.arange(3, 20), torch.device("cpu"))
    orders = torch.Generator().manual_seed(0)
    torch.randperm(17, generator=orders)
    expected = (torch.randperm(17, generator=orders)[8:] + 3).tolist()
    data.read.clear()
    batches = worker_batches.epochs(4, torch.Generator().manual_seed(0), skip=6)
    sizes = [len(labels) for _, labels in islice(batches, 2)]  # an epoch is 4, 4, 4, 4 + 1
    assert sizes == [4, 5]
    assert data.read == expected


@pytest.mark.parametrize("skip", [0, 1, 2, 3, 4, 9])
def test_bad_inputs_of_skipped_batches_are_found_when_they_come(skip):
    data = make_images(16)
    data.tensors[0][5] = float("nan")
    worker_batches = WorkerBatches(Streamed(data), torch.arange(16), torch.device("cpu"))
    batches = worker_batches.epochs(4, torch.Generator().manual_seed(0), skip=skip)
    with pytest.raises(ValueError, match="sample 5 of the training data holds NaN"):
        list(islice(batches, 8))


class Counted(Dataset):
    """Steady items, and how often they were read."""

    def __init__(self, count):
        self.base, self.reads = make_images(count), 0

    def __len__(self):
        return len(self.base)

    def __getitem__(self, index):
        self.reads += 1
        return self.base[index]


ITEM = 64 * 4
SHARDS = [torch.arange(0, 40), torch.arange(40, 80)]


def rounds_of(pool, rounds, reads, take):
    """Epochs' beginnings over several rounds, as workers read them."""
    batches = []
    for _ in range(rounds):
        for shard in SHARDS:
            worker_batches = WorkerBatches(
                pool_data(pool), shard, torch.device("cpu"), pool, reads=reads
            )
            epochs = worker_batches.epochs(8, torch.Generator().manual_seed(0))
            batches += [x for x, _ in islice(epochs, take)]
    return torch.cat(batches)


def pool_data(pool):
    return pool.source._base


@pytest.mark.parametrize(
    ("room", "once", "each_round"),
    [
        (79, 40 + 1, 8),  # one shard is kept, the other streams
        (39, 2, 16),  # both stream; their sizes are looked at once
    ],
)
def test_parts_of_a_large_pool_are_not_decoded_in_every_round(room, once, each_round):
    counts, read = [], []
    for rounds in (1, 2, 5):
        data = Counted(80)
        pool = Pool(
            data, torch.arange(80), torch.device("cpu"), changing=False, cache_bytes=room * ITEM
        )
        data.reads = 0
        read.append(rounds_of(pool, rounds, reads=8, take=1))
        counts.append(data.reads)
    first, second, fifth = counts
    assert second - first == each_round
    assert fifth - first == 4 * each_round
    assert first <= once + 1 + 16
    whole = Pool(Counted(80), torch.arange(80), torch.device("cpu"))
    assert read[2].equal(rounds_of(whole, 5, reads=8, take=1))


def test_what_is_read_whole_in_a_round_is_decoded_once_in_it_and_kept_if_there_is_room():
    data = Counted(80)
    pool = Pool(data, torch.arange(80), torch.device("cpu"), changing=False, cache_bytes=39 * ITEM)
    part = pool.part(SHARDS[0], reads=80)
    assert not part.source.resident  # larger than what may be kept
    roomy = Pool(data, torch.arange(80), torch.device("cpu"), changing=False, cache_bytes=60 * ITEM)
    kept = roomy.part(SHARDS[0], reads=80)
    assert kept.source.resident and roomy.part(SHARDS[0], reads=80) is kept
    assert roomy.part(SHARDS[1], reads=80).source.resident
    assert roomy.part(SHARDS[1], reads=80) is not roomy.part(SHARDS[1], reads=80)
    assert roomy.part(SHARDS[0][:3]) is not roomy.part(SHARDS[0][:3])


def test_the_channel_range_of_a_streamed_part_is_read_once_and_that_of_memory():
    data = Counted(80)
    pool = Pool(data, torch.arange(80), torch.device("cpu"), changing=False, cache_bytes=39 * ITEM)
    sources = [WorkerBatches(data, SHARDS[0], torch.device("cpu"), pool, reads=8) for _ in range(2)]
    low, high = channel_range(sources[0])
    reads = data.reads
    assert channel_range(sources[1])[0] is low
    assert data.reads == reads
    in_memory = channel_range(WorkerBatches(data, SHARDS[0], torch.device("cpu")))
    assert low.equal(in_memory[0]) and high.equal(in_memory[1])
