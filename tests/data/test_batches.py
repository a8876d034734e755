from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from lipt_cords.data.batches import item_indices, split_batch
from lipt_cords.data.labels import labels_of


class Items(Dataset[Any]):
    """A list of items, and which of them were read."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.items[index]


def test_split_batch_keeps_the_first_two_of_a_tuple():
    x, y, w = torch.ones(3, 2), torch.arange(3), torch.ones(3)
    inputs, labels = split_batch((x, y, w))
    assert inputs is x and labels is y
    inputs, labels = split_batch([x, y])
    assert inputs is x and labels is y


@pytest.mark.parametrize("key", ["labels", "label"])
def test_split_batch_takes_labels_out_of_a_dict(key):
    batch = {"tokens": torch.ones(2, 4), "mask": torch.zeros(2, 4), key: torch.arange(2)}
    inputs, labels = split_batch(batch)
    assert set(inputs) == {"tokens", "mask"}
    assert labels is batch[key]
    assert key in batch, "the caller's batch is left whole"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.ones(3), "expected batches .* received Tensor"),
        ((torch.ones(3),), "expected batches .* received tuple of"),
        ({"tokens": torch.ones(2)}, "needs a 'labels' key, received .'tokens'."),
        ((torch.ones(2), ["cat", "dog"]), "expected tensors .* the labels is list"),
        ({"text": ["a"], "labels": torch.ones(1)}, "expected tensors .* key 'text' is list"),
    ],
)
def test_split_batch_says_what_it_needs(batch, message):
    with pytest.raises(ValueError, match=message):
        split_batch(batch)


def test_labels_of_reads_attributes_without_reading_items():
    dataset = Items([None] * 4)
    dataset.targets = [3, 1, 0, 2]  # type: ignore[attr-defined]
    assert labels_of(dataset).tolist() == [3, 1, 0, 2]
    nested = Subset(Subset(dataset, [3, 2, 1]), [0, 2])
    assert labels_of(nested).tolist() == [2, 1]
    joined = ConcatDataset([nested, TensorDataset(torch.ones(2, 1), torch.tensor([[7], [8]]))])
    assert labels_of(joined).tolist() == [2, 1, 7, 8]
    assert dataset.read == []


def test_labels_of_takes_the_second_tensor_of_three():
    dataset = TensorDataset(torch.ones(3, 1), torch.tensor([2, 0, 1]), torch.zeros(3))
    assert labels_of(dataset).tolist() == [2, 0, 1]


def test_labels_of_reads_items_where_targets_are_transformed_or_out_of_step():
    dataset = Items([(None, 5), (None, np.int64(6)), (None, torch.tensor(7))])
    dataset.targets = [0, 1, 2]  # type: ignore[attr-defined]
    dataset.target_transform = lambda label: label + 5  # type: ignore[attr-defined]
    labels = labels_of(dataset)
    assert labels.tolist() == [5, 6, 7] and labels.dtype == torch.int64
    dataset.target_transform = None  # type: ignore[attr-defined]
    for targets in ([0, 1], ["cat", "dog", "owl"], torch.rand(3, 4), "abc"):
        dataset.targets = targets  # type: ignore[attr-defined]
        assert labels_of(dataset).tolist() == [5, 6, 7]


def test_labels_of_dict_items_leaves_the_random_state():
    class Drawing(Items):
        def __getitem__(self, index: int) -> Any:
            return {"x": torch.rand(2) + random.random(), "labels": index % 2}

    torch.manual_seed(3)
    random.seed(3)
    before, python_before = torch.get_rng_state(), random.getstate()
    assert labels_of(Drawing([None] * 5)).tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(before, torch.get_rng_state())
    assert python_before == random.getstate()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(torch.ones(3, 1), torch.rand(3)), "one integer a sample, received .*float"),
        (TensorDataset(torch.ones(3, 1), torch.ones(3, 2, dtype=torch.int64)), "shape .3, 2."),
        (Items([torch.ones(3)]), "expected items"),
        (Items([{"x": 1}]), "expected items"),
        (Items([(1, "cat")]), "labels"),
        (Items([(1, 0.5)]), "one integer a sample"),
    ],
)
def test_labels_that_are_no_classes_are_refused(dataset, message):
    with pytest.raises(ValueError, match=message):
        labels_of(dataset)


@pytest.mark.parametrize(
    ("received", "remedy"),
    [
        (DataLoader(Items([(torch.ones(2), 0)])), "received a DataLoader: pass its .dataset"),
        (torch.ones(3, 2), r"received a Tensor: pass TensorDataset\(x, y\)"),
    ],
)
def test_what_only_looks_like_a_data_set_is_refused(received, remedy):
    with pytest.raises(ValueError, match=remedy):
        labels_of(received)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([0.5]), "indices must be integers or a mask, received torch.float32"),
        (torch.ones(4, dtype=torch.bool), "a mask needs 3 entries, one an item, received 4"),
        ([-1], r"indices must lie in \[0, 3\), received -1"),
    ],
)
def test_indices_that_would_be_misread_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        item_indices(indices, 3)


def test_indices_of_a_subset_count_from_the_end_as_in_a_list():
    data = TensorDataset(torch.ones(4, 1), torch.tensor([5, 6, 7, 8]))
    assert labels_of(Subset(Subset(data, [-1, 0, 2]), np.array([0, -1]))).tolist() == [8, 7]
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 4\), received 4"):
        labels_of(Subset(data, [0, 4]))


def test_a_data_set_without_length_is_refused():
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([])

    with pytest.raises(ValueError, match="map-style data set with a length, received Stream"):
        labels_of(Stream())
