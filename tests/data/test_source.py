from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from lipt_cords.data.images import ImageTensors
from lipt_cords.data.labels import labels_of
from lipt_cords.data.reads import note_read, on_read
from lipt_cords.data.source import BatchSource


class Items(Dataset[Any]):
    """Images read one at a time, and which of them were read."""

    def __init__(self, count: int = 40, *, noisy: bool = False, as_dict: bool = False) -> None:
        draws = torch.Generator().manual_seed(0)
        self.x = torch.rand(count, 1, 4, 4, generator=draws)
        self.y = torch.arange(count) % 3
        self.noisy, self.as_dict = noisy, as_dict
        self.read: set[int] = set()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        self.read.add(index)
        x = self.x[index] + torch.rand(1) if self.noisy else self.x[index]
        if self.as_dict:
            return {"image": x, "size": torch.tensor(float(index)), "labels": int(self.y[index])}
        return x, int(self.y[index])


def image_tensors(count: int = 50) -> ImageTensors:
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 5, 5), dtype=torch.uint8, generator=draws)
    return ImageTensors(images, torch.arange(count) % 4)


def all_of(source: BatchSource, order: Any = None, batch_size: int = 7) -> tuple[Any, torch.Tensor]:
    parts = list(source.batches(order, batch_size=batch_size))
    labels = torch.cat([y for _, y in parts])
    if isinstance(parts[0][0], dict):
        return {key: torch.cat([x[key] for x, _ in parts]) for key in parts[0][0]}, labels
    return torch.cat([x for x, _ in parts]), labels


def test_a_steady_data_set_is_decoded_once_and_only_where_asked():
    dataset = Items()
    source = BatchSource(dataset, [5, 3, 8, 3])
    assert source.resident and len(source) == 4
    assert dataset.read == {3, 5, 8}
    dataset.read.clear()
    x, y = all_of(source, batch_size=3)
    assert torch.equal(x, dataset.x[[5, 3, 8, 3]]) and torch.equal(y, dataset.y[[5, 3, 8, 3]])
    assert source.labels.tolist() == dataset.y[[5, 3, 8, 3]].tolist()
    assert dataset.read == set()


def test_order_and_the_short_last_batch():
    source = BatchSource(Items(10))
    order = torch.tensor([9, 0, 4, 4, 2])
    sizes = [len(y) for _, y in source.batches(order, batch_size=2)]
    assert sizes == [2, 2, 1]
    x, y = all_of(source, order)
    assert torch.equal(x, Items(10).x[order]) and torch.equal(y, Items(10).y[order])


def test_a_changing_data_set_is_streamed_and_changes():
    dataset = Items(noisy=True)
    source = BatchSource(dataset, [1, 2, 3])
    assert not source.resident
    first, labels = all_of(source)
    again, _ = all_of(source)
    assert not torch.equal(first, again)
    assert labels.tolist() == [1, 2, 0] == source.labels.tolist()
    assert dataset.read == {1, 2, 3}


@pytest.mark.parametrize("noisy", [False, True])
def test_building_a_source_leaves_the_random_state(noisy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    BatchSource(Items(noisy=noisy))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("build", [Items, lambda: Items(as_dict=True), image_tensors])
def test_streamed_and_resident_batches_are_equal(build):
    indices = torch.tensor([4, 30, 2, 2, 17])
    resident = BatchSource(build(), indices)
    streamed = BatchSource(build(), indices, cache_bytes=0)
    assert resident.resident and not streamed.resident
    order = torch.tensor([4, 1, 0])
    one, labels = all_of(resident, order, batch_size=2)
    two, other_labels = all_of(streamed, order, batch_size=2)
    assert torch.equal(labels, other_labels)
    assert torch.equal(resident.labels, streamed.labels)
    if isinstance(one, dict):
        assert one.keys() == two.keys() == {"image", "size"}
        assert all(torch.equal(one[key], two[key]) for key in one)
    else:
        assert torch.equal(one, two)


def test_a_dict_column_called_inputs_stays_a_dict():
    class Named(Items):
        def __getitem__(self, index: int) -> Any:
            return {"inputs": self.x[index], "label": 1}

    (x, y) = next(BatchSource(Named()).batches(batch_size=2))
    assert set(x) == {"inputs"} and y.tolist() == [1, 1]


def test_what_does_not_fit_is_streamed():
    dataset = image_tensors()
    assert not BatchSource(dataset, cache_bytes=50 * 75 * 4 - 1).resident
    assert BatchSource(dataset, cache_bytes=50 * 75 * 4).resident
    tensors = TensorDataset(dataset.images.float(), dataset.labels)
    streamed = BatchSource(tensors, cache_bytes=10)
    assert not streamed.resident
    assert torch.equal(all_of(streamed)[0], dataset.images.float())


def test_subsets_are_looked_through():
    dataset = image_tensors()
    nested = Subset(Subset(dataset, list(range(40, 0, -1))), [0, 2, 39])
    x, y = all_of(BatchSource(nested, [2, 0]))
    assert torch.equal(x, dataset.gather(torch.tensor([1, 40]))[0])
    assert y.tolist() == [1, 0]
    assert torch.equal(labels := BatchSource(nested).labels, dataset.labels[[40, 38, 1]]), labels


def test_giving_out_a_batch_never_hands_out_the_kept_memory():
    source = BatchSource(Items())
    for x, _ in source.batches(batch_size=40):
        x.zero_()
    assert torch.equal(all_of(source)[0], Items().x)


def test_normalisation_of_images_is_known_and_of_others_not():
    dataset = image_tensors()
    mean, std = BatchSource(dataset).normalisation
    assert torch.equal(mean, dataset.mean) and torch.equal(std, dataset.std)
    assert BatchSource(Items()).normalisation is None


def test_loader_processes_read_a_streamed_data_set():
    source = BatchSource(Items(12), cache_bytes=0, num_workers=1)
    assert torch.equal(all_of(source, batch_size=5)[0], Items(12).x)


@pytest.mark.parametrize(
    ("dataset", "indices", "message"),
    [
        (Items(0), None, "the data set is empty"),
        (Items(4), [], "the data set is empty"),
        (Items(4), [0, 4], r"indices must lie in \[0, 4\), received 4"),
        (Items(4), [-1], r"indices must lie in \[0, 4\), received -1"),
        (TensorDataset(torch.ones(3, 2)), None, "expected batches"),
    ],
)
def test_bad_sources_are_refused(dataset, indices, message):
    with pytest.raises(ValueError, match=message):
        BatchSource(dataset, indices)


def test_indices_from_the_end_of_a_subset_reach_what_reads_in_bulk():
    images = image_tensors(6)
    source = BatchSource(Subset(images, [-1, 1]))
    assert source.labels.tolist() == [images[5][1], 1]
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 6\), received 6"):
        BatchSource(Subset(images, [0, 6]))


def test_items_that_do_not_stack_are_named():
    class Ragged(Items):
        def __getitem__(self, index: int) -> Any:
            return torch.ones(index + 1), 0

    with pytest.raises(ValueError, match="one batch"):
        BatchSource(Ragged(3))

    class Pictures(Items):
        def __getitem__(self, index: int) -> Any:
            return object(), 0

    with pytest.raises(ValueError, match="cannot put items into one batch.*object"):
        BatchSource(Pictures(3))

    class LateChange(Items):
        def __getitem__(self, index: int) -> Any:
            return torch.ones(2 if index < 1024 else 3), 0

    with pytest.raises(ValueError, match="items differ: the first has inputs"):
        BatchSource(LateChange(1025))


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size must be at least 1, received 0"):
        next(BatchSource(Items()).batches(batch_size=0))


def test_numpy_items_become_tensors():
    class Arrays(Items):
        def __getitem__(self, index: int) -> Any:
            return np.full((2,), index, dtype=np.float32), np.int64(index)

    x, y = all_of(BatchSource(Arrays(3)))
    assert x.tolist() == [[0, 0], [1, 1], [2, 2]] and y.tolist() == [0, 1, 2]


class Silent(Dataset[Any]):
    """Items without known labels, and whether each was noted before the next was read."""

    def __init__(self, count: int, noted: list[int]) -> None:
        self.count, self.noted, self.reads = count, noted, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        assert len(self.noted) >= self.reads
        self.reads += 1
        return torch.ones(2) * index, index % 2


@pytest.mark.parametrize("cache", [0, 2**20])
def test_every_item_that_is_read_is_noted(cache):
    noted: list[int] = []
    with on_read(lambda: noted.append(1)):
        labels_of(Silent(30, noted))
        assert len(noted) == 30
        noted.clear()
        data = Silent(70, noted)
        source = BatchSource(data, cache_bytes=cache)
        for _ in range(2):
            all_of(source)
        assert len(noted) >= data.reads >= 70
    note_read()
    assert len(noted) >= data.reads


def test_who_listens_to_reads_may_stop_them():
    def stop() -> None:
        raise SystemExit("asked to stop")

    with on_read(stop), pytest.raises(SystemExit, match="asked to stop"):
        labels_of(Silent(30, []))


def test_other_processes_that_read_are_noted_batch_by_batch():
    noted: list[int] = []
    with on_read(lambda: noted.append(1)):
        BatchSource(Items(130), num_workers=1)
    assert len(noted) >= 3
