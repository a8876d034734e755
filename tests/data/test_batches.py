from __future__ import annotations

from typing import Any

import pytest
import torch
from items import Items
from torch.utils.data import (
    DataLoader,
    IterableDataset,
)

from lipt_cords.data.batches import item_indices, split_batch
from lipt_cords.data.datasets import load_dataset
from lipt_cords.data.labels import labels_of


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


def test_a_data_set_without_length_is_refused():
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([])

    with pytest.raises(ValueError, match="map-style data set with a length, received Stream"):
        labels_of(Stream())
    with pytest.raises(ValueError, match="received DataSplits: pass a part of it, such as .train"):
        labels_of(load_dataset("digits"))
