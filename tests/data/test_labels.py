"""Labels of data sets: what their items say."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from items import Items
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lipt_cords.data.labels import labels_of
from lipt_cords.warmstart.warm_start import LiPTWarmStart


def test_targets_stand_for_items_that_agree():
    dataset = Items([(None, label) for label in torch.arange(1000) % 7])
    dataset.targets = [label % 7 for label in range(1000)]  # type: ignore[attr-defined]
    notes: list[str] = []
    assert torch.equal(labels_of(dataset, notes), torch.arange(1000) % 7)
    assert 16 <= len(set(dataset.read)) <= 16 + 7, "some items are compared"
    assert {0, 999} < set(dataset.read) and notes == []
    small = Items([(None, 3), (None, 1), (None, 0), (None, 2)])
    small.targets = [3, 1, 0, 2]  # type: ignore[attr-defined]
    nested = Subset(Subset(small, [3, 2, 1]), [0, 2])
    assert labels_of(nested).tolist() == [2, 1]
    joined = ConcatDataset([nested, TensorDataset(torch.ones(2, 1), torch.tensor([[7], [8]]))])
    assert labels_of(joined).tolist() == [2, 1, 7, 8]


class Grouped(Items):
    """Items with coarser labels than the ``targets`` that it inherits."""

    def __init__(self, fine: list[int], group: dict[int, int]) -> None:
        super().__init__([(torch.ones(1), group.get(label, label)) for label in fine])
        self.targets = fine


class Delegating(Dataset[Any]):
    """A wrapper that relabels items and passes on all else."""

    def __init__(self, base: Items) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Any:
        x, label = self.base[index]
        return x, label + 10


FINE = [label % 20 for label in range(400)]


@pytest.mark.parametrize(
    ("dataset", "right"),
    [
        (Grouped(FINE, {label: label // 5 for label in range(20)}), [one // 5 for one in FINE]),
        (Grouped(FINE, {13: 0}), [0 if one == 13 else one for one in FINE]),
        (Subset(Grouped(FINE, {13: 0}), [13, 2, 33, 4]), [0, 2, 0, 4]),
        (
            ConcatDataset([Grouped(FINE, {}), Grouped(FINE, {0: 1})]),
            FINE + [one or 1 for one in FINE],
        ),
        (Delegating(Grouped([1, 2, 3], {})), [11, 12, 13]),
        (Delegating(Subset(Delegating(Grouped([1, 2, 3], {})), [2, 0])), [23, 21]),  # type: ignore[arg-type]
    ],
)
def test_items_decide_where_targets_differ(dataset, right, caplog):
    notes: list[str] = []
    assert labels_of(dataset, notes).tolist() == right
    assert labels_of(Subset(dataset, range(len(dataset)))).tolist() == right
    if notes:  # a Subset of a wrapper lists no labels
        assert "labels are those of the items: sample" in notes[0] in caplog.text


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.dictionaries(st.integers(0, 5), st.integers(0, 5), max_size=3),
)
def test_labels_are_those_of_the_items(fine, group):
    assert labels_of(Grouped(fine, group)).tolist() == [group.get(one, one) for one in fine]


@pytest.mark.parametrize("place", range(6))
def test_a_small_part_among_large_ones_is_compared_too(place):
    parts: list[Dataset[Any]] = [Grouped(list(range(100)) * 5, {}) for _ in range(5)]
    parts.insert(place, Grouped([1] * 6, {1: 0}))
    labels = labels_of(ConcatDataset(parts))
    assert labels[500 * place :][:6].tolist() == [0] * 6
    others = torch.cat([labels[: 500 * place], labels[500 * place + 6 :]])
    assert torch.equal(others, torch.arange(100).repeat(25))


def test_an_item_that_cannot_be_read_is_no_contradiction():
    class Torn(Items):
        def __getitem__(self, index: int) -> Any:
            raise OSError("no such file")

    dataset = Torn([None] * 3)
    dataset.labels = [2, 0, 1]  # type: ignore[attr-defined]
    notes: list[str] = []
    assert labels_of(dataset, notes).tolist() == [2, 0, 1]
    (note,) = notes
    assert note.endswith("where items cannot be read: sample 0 (OSError: no such file)")


def test_the_report_of_a_warm_start_says_whose_labels_it_took():
    dataset = Grouped([label % 4 for label in range(40)], {2: 0, 3: 1})
    dataset.items = [(torch.randn(3), label) for _, label in dataset.items]
    warm_start = LiPTWarmStart(num_workers=2, epochs=1, common_steps=1, launch="serial", threads=1)
    report = warm_start.fit(nn.Sequential(nn.Linear(3, 2)), dataset, dataset).report
    said = [note for note in report.notes if "labels are those of the items" in note]
    assert [note.split(":")[0] for note in said] == ["training data", "held-out data"]


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


def test_indices_of_a_subset_count_from_the_end_as_in_a_list():
    data = TensorDataset(torch.ones(4, 1), torch.tensor([5, 6, 7, 8]))
    assert labels_of(Subset(Subset(data, [-1, 0, 2]), np.array([0, -1]))).tolist() == [8, 7]
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 4\), received 4"):
        labels_of(Subset(data, [0, 4]))
