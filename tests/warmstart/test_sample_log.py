"""The log of what workers saw: against a plain loop, on every way to train, and at no cost."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from crashes import Trainings
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset
from warmstart_material import make_images, make_net, same_log

from lipt_cords import LiPTWarmStart
from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.models.build import build_model
from lipt_cords.selectors import TrainingDynamics
from lipt_cords.warmstart.plan import FitPlan
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.watch.sample_log import SampleLog
from lipt_cords.warmstart.worker_results import WorkerResults
from lipt_cords.warmstart.workers.visits import Visits

SMALL: dict[str, Any] = {
    "num_workers": 4, "epochs": 3, "batch_size": 16, "common_steps": 4, "launch": "serial",
    "threads": 1,
}  # fmt: skip


def fit(**options: Any) -> WarmStartResult:
    data, val = make_images(160), make_images(40, seed=1)
    return LiPTWarmStart(**{**SMALL, **options}).fit(make_net(), data, val)


@pytest.fixture(scope="module")
def logged() -> WarmStartResult:
    return fit(log_samples=True)


def plain_net() -> nn.Module:
    with isolated_rng(3, "plain"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4))


def plain_loop(
    data: TensorDataset, shards: list[torch.Tensor], *, epochs: int, rounds: int, batch: int
) -> list[list[tuple[float, float]]]:
    """(probability, margin) of every sample's visits: SGD on each shard, averages in between."""
    start, seen = plain_net(), [[] for _ in range(len(data))]
    orders = [generator(0, "worker", worker, "order") for worker in range(len(shards))]
    todo: list[list[torch.Tensor]] = []
    for shard, draws in zip(shards, orders, strict=True):
        every = [shard[torch.randperm(len(shard), generator=draws)] for _ in range(epochs)]
        todo.append([part for order in every for part in order.split(batch)])
    steps = len(todo[0]) // rounds
    for number in range(rounds):
        ends = []
        for batches in todo:
            net = copy.deepcopy(start)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            for indices in batches[number * steps : (number + 1) * steps]:
                inputs, labels = data.tensors[0][indices], data.tensors[1][indices]
                logits = net(inputs)
                rows = zip(indices.tolist(), logits.detach(), labels, strict=True)
                for index, row, label in rows:
                    others = torch.cat([row[:label], row[label + 1 :]])
                    chance = row.softmax(dim=0)[label]
                    seen[index].append((float(chance), float(row[label] - others.max())))
                optimizer.zero_grad()
                F.cross_entropy(logits, labels).backward()
                optimizer.step()
            ends.append(net.state_dict())
        start.load_state_dict(
            {name: sum(one[name] for one in ends) / len(ends) for name in ends[0]}
        )
    return seen


@pytest.mark.parametrize("rounds", [1, 5])  # five rounds end in the middle of epochs
def test_the_log_is_that_of_a_plain_loop(rounds: int) -> None:
    data = make_images(64)
    result = LiPTWarmStart(
        num_workers=2, epochs=5, batch_size=8, common_steps=0, optimizer="sgd", momentum=0, lr=0.1,
        weight_decay=0, schedule="constant", rounds=rounds, outer="average", launch="serial",
        log_samples=True,
    ).fit(plain_net(), data)  # fmt: skip
    expected = torch.tensor(plain_loop(data, result.shards, epochs=5, rounds=rounds, batch=8))
    log = result.dynamics
    assert log.counts.tolist() == [5] * 64
    torch.testing.assert_close(log.probabilities, expected[:, :, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log.margins, expected[:, :, 1], rtol=1e-4, atol=1e-4)
    assert log.right.float().mean() > 0.5  # it has learned


WAYS: dict[str, dict[str, Any]] = {
    "one merge": {"rounds": 1},
    "rounds": {"rounds": 4, "ema": 0.9},
    "masks": {"sparsity": "snip", "density": 0.5},
    "augmented": {"augmentation": "randaugment"},
    "bf16": {"precision": "bf16"},
    "compiled": {"compile": True, "num_workers": 1, "epochs": 1},
    "together": {"together": 2},
    "memory": {"memory_budget": "1GiB"},
    "a greedy soup": {"soup": "greedy"},
    "part of the data": {"shard_fraction": 0.5, "epochs": 2.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_log_changes_no_bit_and_no_cost_and_counts_every_visit(way: str) -> None:
    plain, result = fit(**WAYS[way]), fit(log_samples=True, **WAYS[way])
    assert plain.state_dict.keys() == result.state_dict.keys()
    assert all(value.equal(result.state_dict[name]) for name, value in plain.state_dict.items())
    assert result.report.passes == plain.report.passes
    assert result.report.evaluation_passes == plain.report.evaluation_passes
    log, options = result.dynamics, {**SMALL, **WAYS[way]}
    held = torch.cat(result.shards)
    assert log.counts[held].sum() == log.counts.sum()
    assert log.counts[held].min() >= int(options["epochs"])
    assert log.counts.max() - log.counts[held].min() <= 1
    assert log.visited.equal(log.margins.isfinite()) and log.visited.equal(~log.margins.isnan())
    assert log.visited.equal((log.probabilities >= 0) & (log.probabilities <= 1))
    steps = sum(-(-len(shard) // 16) for shard in result.shards)
    assert log.counts.sum() <= steps * 16 * options["epochs"]
    assert len(log.unseen) == 160 - len(held)


def test_workers_trained_at_once_see_what_they_see_in_turn() -> None:
    options = {"num_workers": 3, "rounds": 2, "optimizer": "sgd", "lr": 0.05}
    data = make_images(83)  # the last batch of an epoch differs
    logs = []
    for together in (1, 3):
        warm = LiPTWarmStart(**{**SMALL, **options}, together=together, log_samples=True)
        logs.append(warm.fit(make_net(dropout=0.0), data).dynamics)
    in_turn, at_once = logs
    assert in_turn.counts.equal(at_once.counts)
    for name in ("probabilities", "margins"):
        torch.testing.assert_close(
            getattr(at_once, name), getattr(in_turn, name), equal_nan=True, rtol=1e-3, atol=1e-4
        )


def test_memory_plans_of_steps_with_and_without_a_log_are_the_same() -> None:
    """They share measurements: a further operation in the step would be a change of the step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "memory_budget")
        for log_samples in (False, True, False, True):
            result = fit(memory_budget="1GiB", log_samples=log_samples)
    assert same_log(result.dynamics, fit(log_samples=True).dynamics)


def test_paths_are_logged_as_they_ran() -> None:
    options = {"num_workers": 2, "local_steps": 4, "common_steps": 0, "launch": "serial"}
    options["subnetwork"] = {"lengths": (3, 7)}
    data = make_images(48)

    def net() -> nn.Module:
        with isolated_rng(0, "paths"):
            return build_model("resnet20", 4, in_channels=1, image_size=8)

    plain = LiPTWarmStart(**options).fit(net(), data)
    result = LiPTWarmStart(**options, log_samples=True).fit(net(), data)
    assert all(value.equal(result.state_dict[name]) for name, value in plain.state_dict.items())
    assert result.dynamics.counts.sum() == sum(one.passes for one in result.report.workers)


def test_a_result_keeps_its_log_on_disk_in_messages_and_in_pickles(
    logged: WarmStartResult, tmp_path: Any
) -> None:
    logged.save(tmp_path / "stored")
    for again in (
        WarmStartResult.load(tmp_path / "stored"),
        WarmStartResult.from_bytes(logged.to_bytes()),
        pickle.loads(pickle.dumps(logged)),
    ):
        assert same_log(again.dynamics, logged.dynamics)
    path = tmp_path / "stored" / "dynamics.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"dynamics\.safetensors"):
        WarmStartResult.load(tmp_path / "stored")


def test_without_the_option_the_log_is_asked_for(tmp_path: Any) -> None:
    result = fit()
    for one in (result, WarmStartResult.load(result.save(tmp_path / "stored"))):
        with pytest.raises(ValueError, match="log_samples=True"):
            _ = one.dynamics


def test_a_worker_that_is_not_finite_has_no_visits() -> None:
    data = make_images(160)
    shards = [torch.arange(worker, 160, 4) for worker in range(4)]
    data.tensors[0][shards[2]] *= 1e30
    warm = LiPTWarmStart(**{**SMALL, "rounds": 1, "common_steps": 0}, log_samples=True)
    result = warm.fit(make_net(), data, shards=shards)
    assert not result.report.workers[2].kept
    assert result.dynamics.unseen.equal(shards[2])
    with pytest.raises(ValueError, match=r"40 of 160 have fewer: 2, 6, 10, 14, 18, \.\.\."):
        result.dynamics.score("aum")


def test_a_worker_that_was_lost_with_its_process_has_no_visits() -> None:
    plan = FitPlan("head", [torch.tensor([0, 2]), torch.tensor([1, 3])], [[], []])
    results, log = WorkerResults(0, plan, None), SampleLog(4)
    lost = results.lost(1, rank=1)
    seen = Visits(torch.tensor([2, 0]).int(), torch.tensor([0.5, 0.75]), torch.tensor([0.0, 1.0]))
    log.after_merge(Run(make_net(), 1), [replace(results.lost(0, rank=0), visits=seen), lost])
    assert log.dynamics().unseen.tolist() == [1, 3]
    assert log.dynamics().of([0, 2]).score("confidence").tolist() == [0.25, 0.5]


def test_what_cannot_be_logged_is_refused_before_any_training() -> None:
    def changing(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.mul_(0.5), labels)

    data, net = make_images(64), plain_net()
    with Trainings() as trained, pytest.raises(ValueError, match="changes them in place"):
        LiPTWarmStart(**SMALL, log_samples=True).fit(net, data, loss=changing)
    assert trained.begun == 0
    LiPTWarmStart(**SMALL).fit(net, data, loss=changing)


@settings(max_examples=60)
@given(st.data())
def test_visits_are_appended_in_their_order(data: Any) -> None:
    count = data.draw(st.integers(1, 6))
    log, expected, value = SampleLog(count), [[] for _ in range(count)], 0.0
    for _ in range(data.draw(st.integers(1, 4))):
        samples = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9))
        values = [value + place for place in range(len(samples))]
        value += len(samples)
        for sample, one in zip(samples, values, strict=True):
            expected[sample].append(one)
        log.add(Visits(torch.tensor(samples).int(), torch.tensor(values), -torch.tensor(values)))
        if data.draw(st.booleans()):
            gone = data.draw(st.integers(0, count - 1))
            log.clear(torch.tensor([gone]))
            expected[gone] = []
    found = log.dynamics()
    assert found.counts.tolist() == [len(row) for row in expected]
    assert found.margins.shape == (count, max(map(len, expected)))
    for row, (wanted, chances, margins) in enumerate(
        zip(expected, found.probabilities, found.margins, strict=True)
    ):
        assert chances[: len(wanted)].tolist() == wanted, row
        assert margins[: len(wanted)].tolist() == [-one for one in wanted]
        assert margins[len(wanted) :].isnan().all()


def test_a_log_goes_on_with_a_longer_or_a_shorter_data_set() -> None:
    known = TrainingDynamics(torch.rand(3, 2), torch.rand(3, 2), torch.tensor([2, 2, 0]))
    for samples in (2, 5):
        log = SampleLog(samples, known).dynamics()
        assert log.counts.tolist() == [2, 2, 0, 0, 0][:samples]
        assert log.margins[:2].equal(known.margins[:2])
