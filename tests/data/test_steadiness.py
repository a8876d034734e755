"""Randomness of a data set is noticed; what is not noticed is frozen, everywhere the same."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lipt_cords.data.source import BatchSource
from lipt_cords.data.steadiness import ItemsBySeed, draws_at_random, spread


class Images(Dataset[Any]):
    """Images with a transform, of which some are disturbed in code of the data set's own."""

    def __init__(self, transform: Any = None, disturbed: Any = (), count: int = 120) -> None:
        self.transform, self.disturbed, self.count = transform, set(disturbed), count
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        x = torch.full((1, 2, 2), float(index))
        if index in self.disturbed:
            x = x + torch.rand(1) + np.random.rand() + random.random()
        return (x if self.transform is None else self.transform(x)).float(), index % 3


class RandomNothing:
    def __call__(self, x: Any) -> Any:
        return x


class ColorJitter(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class Compose:
    def __init__(self, *transforms: Any) -> None:
        self.transforms = list(transforms)

    def __call__(self, x: Any) -> Any:
        return functools.reduce(lambda y, change: change(y), self.transforms, x)


class ByClass(Images):
    transform = RandomNothing()

    def __init__(self) -> None:
        super().__init__()
        del self.transform


def hidden() -> Images:
    data = Images()
    data.augment = RandomNothing()  # type: ignore[attr-defined]
    return data


def apply(x: Any, change: Any) -> Any:
    return change(x)


@pytest.mark.parametrize(
    "data",
    [
        Images(RandomNothing()),
        Images(ColorJitter()),
        Images(Compose(abs, Compose(RandomNothing()))),
        Images(nn.Sequential(nn.Identity(), ColorJitter())),
        Images(functools.partial(apply, change=RandomNothing())),
        Subset(Images(RandomNothing()), [0, 1]),
        ConcatDataset([Images(), Images(RandomNothing())]),
        ByClass(),
        hidden(),
    ],
)
def test_transforms_that_draw_at_random_are_known_wherever_they_are(data):
    assert draws_at_random(data)
    assert BatchSource(data).changing and not BatchSource(data).resident


@pytest.mark.parametrize(
    "data", [Images(), Images(Compose(abs, nn.Identity())), TensorDataset(torch.ones(2))]
)
def test_other_data_sets_do_not_draw(data):
    assert not draws_at_random(data)


def test_a_transform_that_holds_itself_is_looked_at_once():
    chain = Compose(abs)
    chain.transforms.append(chain)
    assert not draws_at_random(Images(chain))


def test_items_are_probed_all_over_the_data_set():
    late = Images(disturbed=range(13, 120, 20))
    assert not BatchSource(late).resident
    assert BatchSource(late, cache_bytes=0).changes()
    assert spread(1000, 64)[[0, -1]].tolist() == [0, 999]


def test_an_unreadable_item_raises_only_where_it_is_needed():
    class Torn(Images):
        def __getitem__(self, index: int) -> Any:
            if index == 119:
                raise OSError("torn")
            return super().__getitem__(index)

    assert not BatchSource(Torn(), cache_bytes=0).changes()
    with pytest.raises(OSError, match="torn"):
        BatchSource(Torn())


def everything(source: BatchSource) -> torch.Tensor:
    return torch.cat([x for x, _ in source.batches(batch_size=7)])


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
@pytest.mark.parametrize("loader_workers", [0, 1])
def test_unnoticed_randomness_is_the_same_in_every_part_and_in_memory_or_not(
    cache_bytes, loader_workers
):
    data = Images(disturbed=[50, 51, 77])
    whole = everything(BatchSource(data, changing=False))
    for part in (torch.arange(50, 80), torch.tensor([77, 51])):
        torch.manual_seed(int(part[0]))  # whatever went before
        source = BatchSource(
            Subset(data, part.tolist()),
            changing=False,
            cache_bytes=cache_bytes,
            num_workers=loader_workers,
        )
        assert everything(source).equal(whole[part])
    assert whole[50, 0, 0, 0] != 50 and whole[50, 0, 0, 0] - 50 != whole[51, 0, 0, 0] - 51


def test_reading_under_seeds_leaves_the_random_state():
    data = Images(disturbed=range(120))
    torch.manual_seed(3)
    state, numbers = torch.get_rng_state(), random.getstate()
    everything(BatchSource(data, changing=False, cache_bytes=0))
    assert ItemsBySeed(data)[4][0].equal(ItemsBySeed(data)[4][0])
    assert len(ItemsBySeed(data)) == 120
    assert torch.get_rng_state().equal(state) and random.getstate() == numbers


def test_what_changes_by_decree_is_streamed_without_a_look():
    data = Images()
    assert not BatchSource(data, changing=True).resident
    assert data.reads == 0
