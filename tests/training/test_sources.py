"""Epochs of CORDS's loaders and ours: their kinds, what they cost, and their state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lipt_cords.cords.source import CordsSource, _packed, _unpacked
from lipt_cords.selectors.base import Selection
from lipt_cords.training.sources import SelectionSchedule, SelectorSource

DATA = TensorDataset(torch.arange(20.0), torch.arange(20) % 2)


def _choose(epoch: int) -> Selection:
    return Selection(torch.arange(epoch, epoch + 4), torch.ones(4), name=str(epoch))


def _source(schedule: SelectionSchedule, seed: int = 0) -> SelectorSource:
    return SelectorSource(DATA, _choose, schedule, batch_size=3, seed=seed)


def _read(source: Any, epoch: int) -> tuple[str, list[float], int]:
    opened = source.open(epoch)
    batches = list(opened.batches)
    assert len(batches) == opened.steps
    values = [float(x) for batch in batches for x in batch[0]]
    return opened.kind, values, opened.selections


def test_calendar_is_that_of_cords() -> None:
    schedule = SelectionSchedule(num_epochs=20, kappa=0.5, fraction=0.1, select_every=5)
    assert schedule.select_after == 10 and schedule.warmup_epochs == 1
    kinds = [schedule.kind(epoch) for epoch in range(12)]
    assert kinds == ["full"] + ["skipped"] * 9 + ["subset"] * 2
    assert [epoch for epoch in range(20) if schedule.selects(epoch)] == [10, 15]


def test_our_source_follows_the_calendar() -> None:
    source = _source(SelectionSchedule(num_epochs=8, kappa=0.5, fraction=0.25, select_every=2))
    kind, values, selections = _read(source, 0)
    assert (kind, sorted(values), selections) == ("full", [float(i) for i in range(20)], 0)
    assert [_read(source, epoch)[:2] for epoch in (1, 2, 3)] == [("skipped", [])] * 3
    assert _read(source, 4)[2] == 1
    kind, values, selections = _read(source, 5)
    assert (kind, sorted(values), selections) == ("subset", [4.0, 5.0, 6.0, 7.0], 0)
    assert sorted(_read(source, 6)[1]) == [6.0, 7.0, 8.0, 9.0]


def test_our_source_resumes() -> None:
    schedule = SelectionSchedule(num_epochs=8, kappa=0.0, fraction=0.2, select_every=4)
    source = _source(schedule)
    for epoch in range(2):
        _read(source, epoch)
    state = source.state_dict()
    expected = [_read(source, epoch) for epoch in range(2, 6)]
    again = _source(schedule)
    again.load_state_dict(state)
    assert [_read(again, epoch) for epoch in range(2, 6)] == expected


class FakeLoader:
    """The face that CORDS's adaptive loaders show, with the counters of its main branch."""

    def __init__(self) -> None:
        self.warmup_epochs, self.cur_epoch = 1, 0
        self.subset_indices: Any = np.array([0, 1])
        self.subset_weights: Any = [1.0, 2.0]
        self.selection_count, self.initialized = 1, True
        self.selected_idxs = {0: np.array([0, 1])}
        self.refreshed = 0

    def resample(self) -> None:
        self.subset_indices = [self.cur_epoch, self.cur_epoch + 1]
        self._refresh_subset_loader()

    def _refresh_subset_loader(self) -> None:
        self.refreshed += 1

    def __iter__(self) -> Any:
        self.cur_epoch += 1
        if self.cur_epoch == 3:
            self.resample()
        return iter(_Batches(0 if self.cur_epoch == 2 else 2))


class _Batches:
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        raise StopIteration


def test_cords_epochs_are_told_apart_and_selections_timed() -> None:
    source = CordsSource(FakeLoader())
    opened = [source.open(epoch) for epoch in range(3)]
    assert [epoch.kind for epoch in opened] == ["full", "skipped", "subset"]
    assert [epoch.selections for epoch in opened] == [0, 0, 1]
    assert [epoch.steps for epoch in opened] == [2, 0, 2]
    assert opened[2].selection_seconds > 0 and source.count == 1


def test_cords_state_goes_through_a_checkpoint() -> None:
    source = CordsSource(FakeLoader())
    for epoch in range(3):
        source.open(epoch)
    fresh = FakeLoader()
    CordsSource(fresh).load_state_dict(source.state_dict())
    assert (fresh.cur_epoch, fresh.subset_indices, fresh.subset_weights) == (3, [3, 4], [1.0, 2.0])
    assert fresh.refreshed == 1 and list(fresh.selected_idxs) == [0]
    assert fresh.selected_idxs[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        [0.1, 0.2],
        np.array([0.1, 0.2], dtype=np.float32),
        torch.tensor([0.1, 0.2]),
        [np.float32(0.1), np.float32(0.2)],
        [],
    ],
)
def test_subsets_keep_their_form(values: Any) -> None:
    back = _unpacked(_packed(values))
    assert type(back) is type(values)
    assert [type(value) for value in back] == [type(value) for value in values]
    assert all(a == b for a, b in zip(back, values, strict=True))
