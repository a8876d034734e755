from __future__ import annotations

import inspect
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from lipt_cords.selectors.base import Selection
from lipt_cords.selectors.loader import SelectionSampler, SubsetLoader, broadcast_selection

DATA = TensorDataset(torch.arange(20.0), torch.arange(20) % 3)


def chosen(*indices: int) -> Selection:
    where = torch.tensor(indices)
    return Selection(where, where.float() / 10)


class Words(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": torch.full((3,), index), "labels": torch.tensor(index % 3)}


def epoch_of(loader: SubsetLoader) -> list[float]:
    return torch.cat([x for x, _, _ in loader]).tolist()


def test_it_is_a_data_loader_of_weighted_tuples() -> None:
    loader = SubsetLoader(DATA, chosen(3, 1, 17, 8, 12), batch_size=2, seed=1)
    assert isinstance(loader, DataLoader) and len(loader) == 3
    for x, y, w in loader:
        assert torch.equal(y, x.long() % 3) and torch.allclose(w, x / 10)
        assert w.dtype == torch.float32
    assert sorted(epoch_of(loader)) == [1, 3, 8, 12, 17]


def test_dict_samples_get_their_weights() -> None:
    loader = SubsetLoader(Words(), chosen(4, 9), batch_size=2, shuffle=False)
    (batch,) = list(loader)
    assert batch["input_ids"].tolist() == [[4] * 3, [9] * 3] and batch["labels"].tolist() == [1, 0]
    assert torch.allclose(batch["weights"], torch.tensor([0.4, 0.9]))


def test_orders_differ_by_epoch_and_seed_and_repeat() -> None:
    some = chosen(*range(15))
    loader, same, other = (SubsetLoader(DATA, some, seed=s, batch_size=4) for s in (1, 1, 2))
    state = torch.get_rng_state()
    epochs = [epoch_of(loader) for _ in range(2)]
    assert epochs[0] != epochs[1] and epochs == [epoch_of(same) for _ in range(2)]
    assert epoch_of(other) != epochs[0]
    assert torch.equal(state, torch.get_rng_state()), "global randomness is left alone"
    same.set_epoch(1)
    assert epoch_of(same) == epochs[1]


def test_reselection_is_in_place_and_reaches_persistent_workers() -> None:
    loader = SubsetLoader(
        DATA, chosen(1, 2, 3), batch_size=2, num_workers=1, persistent_workers=True
    )
    assert sorted(epoch_of(loader)) == [1, 2, 3]
    loader.reselect(chosen(5, 6))
    assert len(loader) == 1 and sorted(epoch_of(loader)) == [5, 6]
    (batch,) = list(loader)
    assert torch.allclose(batch[2], batch[0] / 10)


def test_state_resumes_within_an_epoch() -> None:
    some = chosen(*range(10))
    loader = SubsetLoader(DATA, some, batch_size=3, seed=4)
    epoch_of(loader)
    iterator = iter(loader)
    taken = [next(iterator)[0] for _ in range(2)]
    state = loader.state_dict()
    rest = [x for x, _, _ in iterator]
    following = epoch_of(loader)

    resumed = SubsetLoader(DATA, chosen(0), batch_size=3)
    resumed.load_state_dict(state)
    assert torch.equal(torch.cat([x for x, _, _ in resumed]), torch.cat(rest))
    assert epoch_of(resumed) == following
    assert len(torch.cat([*taken, *rest]).unique()) == 10
    with pytest.raises(ValueError, match="lacks"):
        resumed.load_state_dict({"epoch": 1})


def test_every_iter_is_a_fresh_order_also_after_an_epoch_that_is_broken_off() -> None:
    """As DataLoader gives; else the same few batches are read for ever."""
    loader = SubsetLoader(DATA, chosen(*range(10)), batch_size=3, seed=4)
    seen = {int(x) for _ in range(40) for x in next(iter(loader))[0]}
    assert seen == set(range(10))
    whole = [epoch_of(SubsetLoader(DATA, chosen(*range(10)), seed=4)) for _ in range(1)]
    again = SubsetLoader(DATA, chosen(*range(10)), batch_size=3, seed=4)
    next(iter(again))
    second, third = epoch_of(again), epoch_of(again)
    again.set_epoch(1)
    assert epoch_of(again) == second != third and epoch_of(again) == third
    again.set_epoch(0)
    assert epoch_of(again) == whole[0]


def test_after_the_last_whole_batch_the_next_epoch_follows() -> None:
    def made() -> SubsetLoader:
        return SubsetLoader(DATA, chosen(*range(10)), batch_size=4, seed=4, drop_last=True)

    loader, resumed = made(), made()
    iterator = iter(loader)
    next(iterator), next(iterator)
    resumed.load_state_dict(loader.state_dict())
    assert epoch_of(resumed) == epoch_of(loader) != []


@settings(max_examples=60)
@given(
    size=st.integers(1, 20), before=st.integers(1, 7), after=st.integers(1, 7),
    ranks=st.integers(1, 3), steps=st.integers(0, 5),
)  # fmt: skip
def test_a_state_counts_samples_and_continues_with_any_batch_size(
    size: int, before: int, after: int, ranks: int, steps: int
) -> None:
    some = chosen(*range(size))
    for rank in range(ranks):
        place = {"seed": 3, "num_replicas": ranks, "rank": rank}
        whole = [float(x) for xs, _, _ in SubsetLoader(DATA, some, **place) for x in xs]
        loader = SubsetLoader(DATA, some, batch_size=before, **place)
        taken = [float(x) for xs, _, _ in itertools.islice(loader, steps) for x in xs]
        resumed = SubsetLoader(DATA, some, batch_size=after, **place)
        resumed.load_state_dict(loader.state_dict())
        rest = [float(x) for xs, _, _ in resumed for x in xs]
        if len(taken) < len(whole):
            assert taken + rest == whole
        else:  # the next epoch follows
            assert taken == whole and len(rest) == len(whole)


def test_a_state_within_an_epoch_is_refused_by_other_ranks_and_another_order() -> None:
    loader = SubsetLoader(DATA, chosen(*range(10)), batch_size=2)
    next(iter(loader))
    for options, message in (
        ({"num_replicas": 2, "rank": 0}, "num_replicas=1, and this loader has 2"),
        ({"shuffle": False}, "shuffle=True, and this loader has False"),
    ):
        with pytest.raises(ValueError, match=message):
            SubsetLoader(DATA, chosen(0), **options).load_state_dict(loader.state_dict())
    epoch_of(loader)
    between = SubsetLoader(DATA, chosen(0), num_replicas=2, rank=0)
    between.load_state_dict(loader.state_dict())
    assert sum(len(x) for x, _, _ in between) == 5


class Photos(Dataset[Any]):
    """Of which some cannot be read."""

    def __init__(self, broken: set[int]) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return None if index in self.broken else (torch.tensor([float(index)]), index % 2)


def skip(items: list[Any]) -> Any:
    return default_collate([item for item in items if item is not None])


@pytest.mark.parametrize("workers", [0, 1])
def test_weights_follow_their_samples_where_some_are_left_out(workers: int) -> None:
    some = Selection(torch.arange(12), torch.arange(12.0))  # the weight of sample i is i
    loader = SubsetLoader(
        Photos({2, 7, 8}), some, batch_size=3, collate_fn=skip, num_workers=workers
    )
    read = [(float(x), float(w)) for xs, _, ws in loader for x, w in zip(xs, ws, strict=True)]
    assert sorted(read) == [(float(i), float(i)) for i in range(12) if i not in (2, 7, 8)]


def first(items: list[Any]) -> Any:
    return default_collate(items[:1])


def test_a_batch_whose_weights_cannot_be_assigned_is_an_error() -> None:
    some = chosen(*range(4))
    with pytest.raises(ValueError, match="a batch of 1 out of 2 samples"):
        next(iter(SubsetLoader(DATA, some, batch_size=2, collate_fn=first)))
    with pytest.raises(ValueError, match="every sample of a batch is None"):
        list(SubsetLoader(Photos({0, 1}), some, batch_size=1, collate_fn=skip))
    for wrong in (None, 0, True):
        with pytest.raises(ValueError, match="batch_size must be at least 1, received"):
            SubsetLoader(DATA, some, batch_size=wrong)


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_ranks_share_an_epoch_evenly(size: int) -> None:
    some = chosen(*range(size))
    parts = [
        [index for index, _ in SelectionSampler(some, seed=3, num_replicas=4, rank=rank)]
        for rank in range(4)
    ]
    assert len({len(part) for part in parts}) == 1
    assert {index for part in parts for index in part} == set(range(size))
    assert sum(map(len, parts)) - size < 4
    with pytest.raises(ValueError, match="rank"):
        SelectionSampler(some, num_replicas=2, rank=2)


@pytest.mark.parametrize("size", [1, 2, 7, 12])
@pytest.mark.parametrize("batch_size", [2, 3])
def test_no_sample_counts_twice_on_several_ranks(size: int, batch_size: int) -> None:
    some = chosen(*range(1, size + 1))
    for epoch in range(3):
        counted: list[int] = []
        for rank in range(4):
            loader = SubsetLoader(
                DATA, some, batch_size=batch_size, seed=3, num_replicas=4, rank=rank
            )
            loader.set_epoch(epoch)
            batches = list(loader)
            assert len(batches) == len(loader) == math.ceil(math.ceil(size / 4) / batch_size)
            for x, _, w in batches:
                counted += x[w > 0].int().tolist()
                assert size < 4 or bool((w > 0).any())
        assert sorted(counted) == list(range(1, size + 1))


def test_a_padded_rank_resumes_within_an_epoch() -> None:
    loader, again = (
        SubsetLoader(DATA, chosen(*range(1, 8)), batch_size=1, num_replicas=2, rank=1)
        for _ in range(2)
    )
    iterator = iter(loader)
    first = [next(iterator) for _ in range(2)]
    again.load_state_dict(loader.state_dict())
    whole = [w.item() for _, _, w in first] + [w.item() for _, _, w in again]
    assert len(whole) == 4 and whole[0] == 0 and all(w > 0 for w in whole[1:])


def _select_on_rank_zero(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    selection = broadcast_selection(chosen(2, 4, 6, 8) if rank == 0 else None)
    loader = SubsetLoader(DATA, selection, batch_size=1, seed=5)
    shares = [[int(x) for x, _, _ in loader]]
    # A second selection, made by rank 0 again, replaces the first in place: odd in size.
    loader.reselect(broadcast_selection(chosen(1, 3, 5, 7, 9) if rank == 0 else None))
    counted = torch.zeros(20)
    for x, _, w in loader:
        counted[x.long()] += (w > 0).float()
    dist.all_reduce(counted)
    shares.append(counted.nonzero().flatten().tolist() if counted.max() == 1 else [])
    Path(folder, f"{rank}.json").write_text(json.dumps([*shares, len(loader)]))
    dist.destroy_process_group()


def test_one_rank_selects_and_all_train(tmp_path: Path) -> None:
    mp.start_processes(_select_on_rank_zero, (str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert sorted(ranks[0][0] + ranks[1][0]) == [2, 4, 6, 8] and len(ranks[0][0]) == 2
    assert [each[1:] for each in ranks] == [[[1, 3, 5, 7, 9], 3]] * 2
    assert len(broadcast_selection(chosen(1))) == 1
    with pytest.raises(ValueError, match="rank 0"):
        broadcast_selection(None)


def test_batches_sharded_by_another_library_still_carry_weights() -> None:
    """As accelerate does: a new loader around this one's data set, batches and collation."""
    loader = SubsetLoader(DATA, chosen(*range(8)), batch_size=2, seed=1)
    mine = list(loader.batch_sampler)[::2]
    again: DataLoader[object] = DataLoader(
        loader.dataset, batch_sampler=mine, collate_fn=loader.collate_fn
    )
    for x, _, w in again:
        assert torch.allclose(w, x / 10)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="another pool"):
        SubsetLoader(DATA, chosen(20))
    with pytest.raises(ValueError, match="at least one sample"):
        SubsetLoader(DATA, Selection(torch.zeros(0, dtype=torch.int64), torch.zeros(0)))
    with pytest.raises(ValueError, match="one weight an index"):
        SubsetLoader(DATA, Selection(torch.tensor([1]), torch.ones(2)))
    with pytest.raises(ValueError, match="'sampler'"):
        SubsetLoader(DATA, chosen(1), sampler=RandomSampler(DATA))
    with pytest.raises(ValueError, match=r"'batch_sampler'.*Subset\(dataset, selection.indices\)"):
        SubsetLoader(DATA, chosen(1), sampler=None, batch_sampler=[[0]])


def built_anew(loader: SubsetLoader, saved: dict[str, Any] | None) -> SubsetLoader:
    """As Lightning builds a loader anew for ``overfit_batches``.

    From the arguments that it saved, where the loader was made in a hook of a module or of a data
    module; else from attributes that are named like the arguments.
    """
    if saved is None:
        names = {**inspect.signature(DataLoader).parameters,
                 **inspect.signature(type(loader)).parameters}  # fmt: skip
        attributes = {k: v for k, v in vars(loader).items() if not k.startswith("_")}
        attributes["multiprocessing_context"] = loader.multiprocessing_context
        saved = {
            name: attributes[name] for name, parameter in names.items()
            if name in attributes and attributes[name] is not parameter.default
        }  # fmt: skip
    sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    replaced = {"sampler": sampler, "shuffle": False, "batch_sampler": None}
    return type(loader)(**{**saved, **replaced})


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("collate", [None, default_collate])
def test_a_loader_that_a_trainer_builds_anew_is_the_same_without_shuffling(
    hook: bool, collate: Any
) -> None:
    selection = chosen(7, 3, 19, 0, 5)
    arguments = {
        "dataset": DATA, "selection": selection, "batch_size": 2, "seed": 9, "drop_last": True,
        "collate_fn": collate, "num_replicas": 1, "rank": 0,
    }  # fmt: skip
    loader = SubsetLoader(**arguments)
    epoch_of(loader)
    again = built_anew(loader, arguments if hook else None)
    for _ in range(2):
        batches = list(again)
        assert [x.tolist() for x, _, _ in batches] == [[7, 3], [19, 0]]
        weights = torch.cat([w for _, _, w in batches])
        assert weights.equal(selection.weights[:4])
    loader.reselect(chosen(4, 2))
    again = built_anew(loader, {**arguments, "selection": loader.selection} if hook else None)
    assert epoch_of(again) == [4, 2] and again.state_dict()["seed"] == 9
    again.reselect(chosen(6, 1))
    assert epoch_of(again) == [6, 1]


def test_ranks_share_a_loader_that_was_built_anew() -> None:
    parts = [
        built_anew(SubsetLoader(DATA, chosen(5, 4, 3, 2, 1), num_replicas=2, rank=rank), None)
        for rank in (0, 1)
    ]
    assert [epoch_of(part) for part in parts] == [[5, 3, 1], [5, 4, 2]]
    assert next(iter(parts[1]))[2].tolist() == pytest.approx([0, 0.4, 0.2])


def test_weights_of_the_data_are_not_written_over() -> None:
    items = [{"x": torch.ones(1), "labels": 1, "weights": 3.0}] * 4
    loader = SubsetLoader(items, chosen(2, 0), batch_size=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a key 'weights' of their own.*call it something else"):
        next(iter(loader))
