"""A worker is a pure function: same task, same bits; nothing outside of it changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from warmstart_material import Dicts, Streamed, make_images, make_net

from lipt_cords.data.source import BatchSource
from lipt_cords.models.losses import mean_loss
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.workers.worker import WorkerTask, run_worker


def task(dataset, *, worker=0, model=None, shard=None, validation=None, **options):
    config = WarmStartConfig(**{"type": "lipt-once", "batch_size": 16, "epochs": 2, **options})
    return WorkerTask(
        worker=worker,
        model=model or make_net(),
        head="6",
        dataset=dataset,
        indices=torch.arange(0, 160, 3) if shard is None else shard,
        config=config,
        loss=mean_loss(None),
        validation=None if validation is None else BatchSource(validation),
    )


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "options",
    [{}, {"augmentation": "randaugment"}, {"sparsity": "random", "density": 0.5}],
)
def test_the_same_task_gives_the_same_bits(train, options):
    one, two = (run_worker(task(train, **options)) for _ in range(2))
    assert same(one.state, two.state)
    assert one.loss == two.loss
    assert not same(one.state, run_worker(task(train, worker=1, **options)).state)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_weights_that_fit_both_layouts_are_averaged(train, layout):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    options = {"model": model, "sparsity": "none", "memory_format": layout, "lr": 0.2}
    last, average = (run_worker(task(train, ema=ema, **options)).state for ema in (None, 0.99))
    assert not any(last[name].equal(average[name]) for name in ("0.weight", "4.weight"))


def test_the_task_and_the_callers_random_state_are_untouched(train):
    model = make_net().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    run_worker(task(train, model=model, augmentation="randaugment"))
    assert torch.rand(3).equal(expected[0])
    assert (np.random.rand(3) == expected[1]).all()
    assert same(model.state_dict(), before)
    assert not model.training


def test_only_the_shard_is_read_and_random_transforms_follow_the_seed(train):
    shard = torch.tensor([3, 8, 30, 31, 90, 120])
    results = []
    for global_seed in (0, 1):
        dataset = Streamed(train)
        torch.manual_seed(global_seed)
        results.append(run_worker(task(dataset, shard=shard)))
        assert set(dataset.read) == set(shard.tolist())
    assert same(results[0].state, results[1].state)


def test_it_learns_and_reports_what_it_did(train, val):
    done = run_worker(task(train, validation=val, epochs=8, lr=0.1))
    assert done.finite
    assert done.steps == 32
    assert done.passes == 8 * 54
    assert done.density == 29 / 36
    assert done.loss < math.log(4)
    assert done.accuracy > 0.5


def test_pruned_weights_are_zero_in_the_state_and_the_head_is_dense(train):
    done = run_worker(task(train, density=0.25))
    assert int((done.state["0.weight"] != 0).sum()) == 9
    assert done.density == 0.25
    assert int((done.state["6.weight"] == 0).sum()) == 0


def test_no_pruning_when_not_asked_for(train):
    for options in ({"sparsity": "none", "density": 0.2}, {"density": 1.0}):
        done = run_worker(task(train, **options))
        assert done.density == 1
        assert int((done.state["0.weight"] == 0).sum()) == 0


def test_steps_by_epochs_or_by_number(train):
    assert task(train, epochs=0.5).steps == 2
    assert task(train, epochs=0.01).steps == 1
    assert task(train, local_steps=7).steps == 7
    ticks = []
    counted = task(train, local_steps=7)
    object.__setattr__(counted, "tick", lambda: ticks.append(1))
    assert run_worker(counted).steps == len(ticks) == 7


@pytest.mark.parametrize(("size", "batch_size"), [(1, 16), (17, 16), (5, 1)])
def test_odd_shards_train(train, size, batch_size):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    wanted = task(train, shard=torch.arange(size), batch_size=batch_size)
    object.__setattr__(wanted, "model", model)
    object.__setattr__(wanted, "head", "3")
    done = run_worker(wanted)
    assert done.finite
    assert done.passes == 2 * size


def test_divergence_is_seen(train, val):
    done = run_worker(task(train, lr=1e30, validation=val))
    assert not done.finite
    assert done.accuracy is None


def test_augmentation_of_a_mapping_is_refused(train):
    with pytest.raises(ValueError, match="received a mapping"):
        run_worker(task(Dicts(make_images(160)), augmentation="randaugment"))
