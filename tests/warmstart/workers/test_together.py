"""Workers trained at once equal those in turn; where that cannot be, it is refused or logged."""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset
from warmstart_material import Streamed, make_images, make_net

from lipt_cords import LiPTWarmStart
from lipt_cords.base.randomness import isolated_rng
from lipt_cords.data.source import BatchSource
from lipt_cords.models.build import build_model
from lipt_cords.models.losses import mean_loss
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.watch.probe import Probe
from lipt_cords.warmstart.workers import together
from lipt_cords.warmstart.workers.ensemble import obstacle, speedup
from lipt_cords.warmstart.workers.together import run_workers
from lipt_cords.warmstart.workers.worker import WorkerTask, run_worker

WORKERS = 3
COUNT = 83  # shards of 28, 28 and 27: the last batch of an epoch differs by one
PLAIN = {
    "optimizer": "sgd", "schedule": "constant", "sparsity": "magnitude", "rounds": 1,
    "outer": "average", "batch_size": 64, "epochs": 4, "common_steps": 100,
}  # fmt: skip


class Plain(nn.Module):
    """A net with two layers, and room for what a test puts between."""

    def __init__(self) -> None:
        super().__init__()
        with isolated_rng(0, "plain"):
            self.first, self.head = nn.Linear(64, 16), nn.Linear(16, 4)

    def forward(self, image):
        return self.head(self.between(self.first(image.flatten(1)).relu()))

    def between(self, hidden):
        return hidden


class Tied(Plain):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight

    def between(self, hidden):
        return self.two(self.one(hidden).relu())


class Frozen(Plain):
    """A first layer that stays as it is, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)
        self.unused = nn.Linear(3, 3)


class Binding(Plain):
    """Binds a new tensor to its buffer, which a functional call does not see."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def between(self, hidden):
        self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(dim=0)
        return hidden - self.mean


class Deciding(Plain):
    """Its control flow depends on values."""

    def between(self, hidden):
        return hidden if hidden.sum() > 0 else -hidden


class Text(nn.Module):
    """A classifier of token sequences, called with keywords."""

    def __init__(self):
        super().__init__()
        with isolated_rng(0, "text"):
            self.embedding = nn.Embedding(40, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 3)

    def forward(self, tokens, mask):
        hidden = self.encoder(self.embedding(tokens), src_key_padding_mask=mask)
        return {"logits": self.head(hidden.mean(dim=1))}


class Sentences(torch.utils.data.Dataset):
    """Padded sequences as dicts."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        tokens = torch.randint(40, (6,), generator=draw)
        return {"tokens": tokens, "mask": torch.arange(6) > 2 + index % 4, "labels": index % 3}


def double_images(count=COUNT):
    images, labels = make_images(count).tensors
    return TensorDataset(images.double(), labels)


def tasks_of(model, dataset=None, *, head="head", workers=WORKERS, loss=None, **options):
    """Tasks in float64, in which rounding stays small over many steps."""
    options = {"batch_size": 8, "epochs": 2, "lr": 0.02, "together": WORKERS, **options}
    config = WarmStartConfig(**{**PLAIN, "num_workers": workers, **options})
    dataset = double_images() if dataset is None else dataset
    return [
        WorkerTask(
            worker=worker,
            model=model.double(),
            head=head,
            dataset=dataset,
            indices=torch.arange(worker, len(dataset), workers),
            config=config,
            loss=mean_loss(loss),
        )
        for worker in range(workers)
    ]


def assert_alike(tasks, **tolerance):
    tolerance = {"rtol": 1e-8, "atol": 1e-10, **tolerance}
    results = list(run_workers(tasks))
    for one, two in zip((run_worker(task) for task in tasks), results, strict=True):
        for name in ("worker", "finite", "steps", "passes", "density", "forward_passes"):
            assert getattr(one, name) == getattr(two, name), name
        assert one.loss == pytest.approx(two.loss, rel=1e-5)
        assert one.accuracy == two.accuracy
        assert one.state.keys() == two.state.keys()
        for name, value in one.state.items():
            assert two.state[name].is_contiguous()
            torch.testing.assert_close(two.state[name], value, **tolerance, msg=name)
            assert torch.equal(two.state[name] == 0, value == 0), name
    return results


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": "none"},
        {"schedule": "cosine", "ema": 0.8, "density": 0.5},
        {"sparsity": "random", "momentum": 0.0, "weight_decay": 0.0},
        {"sparsity": "snip", "densities": "erk", "density": 0.4, "schedule": "linear"},
        {"augmentation": "randaugment", "prune_after": 0.0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_equal_to_training_in_turn(options):
    results = assert_alike(tasks_of(build_model("cnn", 4, in_channels=1), head="head", **options))
    counted = {int(v) for r in results for n, v in r.state.items() if n.endswith("batches_tracked")}
    assert counted == {results[0].steps}
    assert results[0].seconds == results[1].seconds > 0


def test_equal_for_resnet8_in_a_later_round_with_held_out_data():
    model = build_model("resnet8", 4, in_channels=1, image_size=8)
    tasks = tasks_of(model, rounds=2, epochs=3, schedule="wsd", batch_size=9)
    source = BatchSource(double_images(40))
    probe = Probe(source, 20, seed=0, head="head")
    tasks = [replace(task, round=1, decay=(1, 2), validation=source, probe=probe) for task in tasks]
    results = assert_alike(tasks)
    assert (tasks[0].first_step, tasks[0].steps) == (4, 5)  # from the middle of an epoch
    assert results[0].reading.losses.shape == (20,)
    assert results[0].forward_passes == 60


@pytest.mark.parametrize("net", [Plain, Tied, Frozen])
@pytest.mark.parametrize("loss", [None, nn.MSELoss(), nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_equal_for_other_nets_and_losses(net, loss):
    assert_alike(tasks_of(net(), loss=loss))


def test_equal_for_dicts_and_attention():
    assert_alike(tasks_of(Text(), Sentences()))


def test_equal_for_data_with_random_transforms():
    assert_alike(tasks_of(Plain(), Streamed(double_images())))


@settings(max_examples=12)
@given(
    sizes=st.lists(st.integers(2, 20), min_size=2, max_size=5),
    batch_size=st.integers(2, 6),
    local_steps=st.none() | st.integers(1, 9),
)
def test_equal_for_shards_of_any_size(sizes, batch_size, local_steps):
    data, starts = double_images(100), np.cumsum([0, *sizes[:-1]])
    options = {"batch_size": batch_size, "local_steps": local_steps}
    tasks = tasks_of(Plain(), data, workers=len(sizes), **options)
    tasks = [
        replace(task, indices=torch.arange(start, start + size))
        for task, start, size in zip(tasks, starts, sizes, strict=True)
    ]
    results = {one.worker: one for one in run_workers(tasks)}
    for task in tasks:
        alone = run_worker(task)
        assert results[task.worker].passes == alone.passes
        torch.testing.assert_close(results[task.worker].state, alone.state, rtol=1e-8, atol=1e-10)


def test_dropout_differs_between_workers_and_follows_the_seed():
    def outcomes(**options):
        tasks = tasks_of(make_net(dropout=0.5), head="6", sparsity="none", **options)
        same = [replace(task, indices=torch.arange(8)) for task in tasks]
        return [one.state["6.weight"] for one in run_workers(same)]

    torch.manual_seed(1)
    one, two, _ = outcomes(local_steps=3)
    torch.manual_seed(2)
    assert torch.equal(one, outcomes(local_steps=3)[0])
    assert not torch.allclose(one, two)
    assert not torch.allclose(one, outcomes(local_steps=3, seed=1)[0])


def test_the_tasks_and_the_callers_random_state_are_untouched():
    model = make_net().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ticks = []
    tasks = tasks_of(model, head="6", augmentation="randaugment", together="auto", epochs=10)
    tasks = [replace(task, tick=lambda: ticks.append(1)) for task in tasks]
    results = list(run_workers(tasks))
    assert torch.rand(3).equal(expected)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert len(ticks) == sum(one.steps for one in results)


def test_divergence_of_one_worker_is_its_own():
    images, labels = double_images().tensors
    images[::WORKERS] *= 1e200
    results = list(run_workers(tasks_of(Plain(), TensorDataset(images, labels))))
    assert [one.finite for one in results] == [False, True, True]
    assert results[0].accuracy is None


def groups_of(results):
    """Who was trained at once: they have the very seconds of their group."""
    groups = {}
    for one in results:
        groups.setdefault(one.seconds, []).append(one.worker)
    return list(groups.values())


def same_bits(one, two):
    return all(torch.equal(one.state[name], two.state[name]) for name in one.state)


def test_groups_are_neighbours_and_one_alone_is_trained_alone():
    tasks = tasks_of(Plain(), workers=5, together=2, local_steps=1)
    results = list(run_workers(tasks))
    assert groups_of(results) == [[0, 1], [2, 3], [4]]
    assert same_bits(results[4], run_worker(tasks[4]))
    tasks = tasks_of(Plain(), workers=2, together=1)
    results = list(run_workers(tasks))
    assert groups_of(results) == [[0], [1]]
    assert all(same_bits(one, run_worker(task)) for one, task in zip(results, tasks, strict=True))


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (Binding, {}, "buffer 'mean' is not written in place"),
        (Deciding, {}, "data-dependent control flow"),
        (Plain, {"compile": True}, "compile=True"),
        (Plain, {"batch_size": 1}, "a single sample"),
    ],
)
def test_what_cannot_be_trained_at_once(model, options, reason, caplog):
    with pytest.raises(ValueError, match=f"{reason}.*set together=1"):
        list(run_workers(tasks_of(model(), **options)))
    caplog.set_level(logging.INFO, together.__name__)
    auto = tasks_of(model(), together="auto", local_steps=40, **options)
    with torch.compiler.set_stance("force_eager"):  # a compiler would take minutes
        assert groups_of(run_workers(auto)) == [[0], [1], [2]]
    assert "workers train in turn: " in caplog.text and reason in caplog.text


class Told:
    """A clock, and a loss that moves it on: by 1 for one net, by so much for ten at once."""

    def __init__(self, at_once):
        self.now, self.at_once = 0.0, at_once

    def thread_time(self):
        return self.now

    def loss(self, logits, labels):
        try:
            logits.sum().item()
            self.now += 1.0
        except RuntimeError:  # there is no single value where many nets are one
            self.now += self.at_once
        return F.cross_entropy(logits, labels)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("gain", "first"), [(1.05, [0]), (3.0, list(range(10)))])
def test_auto_goes_by_what_it_measures(gain, first, caplog, monkeypatch, one_thread):
    told = Told(10 / gain)  # ten in turn take 10
    monkeypatch.setattr(time, "thread_time", told.thread_time)
    caplog.set_level(logging.INFO, together.__name__)
    steps = together.FEWEST_STEPS
    options = {"workers": 20, "together": "auto", "loss": told.loss}
    results = itertools.islice(run_workers(tasks_of(Plain(), local_steps=steps, **options)), 11)
    assert groups_of(results)[0] == first  # twenty in two even groups
    assert f"10 at once are {gain:.2f} times as fast" in caplog.text
    caplog.clear()
    short = run_workers(tasks_of(Plain(), local_steps=steps - 1, **options))
    assert groups_of(itertools.islice(short, 2)) == [[0], [1]]
    assert f"workers train in turn: fewer than {steps} steps" in caplog.text


def test_too_little_memory_is_said(caplog):
    calls = []

    def full():
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(ValueError, match="3 workers at once do not fit.*smaller number"):
        list(run_workers([replace(task, tick=full) for task in tasks_of(Plain())]))

    def loss(logits, labels):
        calls.append(1)
        if len(calls) == first_measured:
            full()
        return F.cross_entropy(logits, labels)

    first_measured = None
    tasks = tasks_of(Plain(), together="auto", local_steps=40, loss=loss)
    images, labels = double_images()[:8]
    assert obstacle(tasks[0].model, tasks[0].loss, (images, labels), tasks[0].config) is None
    first_measured = 2 * len(calls) + 1  # it is looked for once more, and then measured
    caplog.set_level(logging.INFO, together.__name__)
    assert groups_of(run_workers(tasks)) == [[0], [1], [2]]
    assert "workers train in turn: 3 at once do not fit" in caplog.text


def test_the_measurement_changes_nothing():
    model = make_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch, config = make_images(8).tensors, WarmStartConfig(**PLAIN, precision="bf16")
    assert obstacle(model, F.cross_entropy, batch, config) is None
    assert speedup(model, F.cross_entropy, batch, config, 2) > 0
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_whole_warm_start():
    def fit(**options):
        warm_start = LiPTWarmStart(
            num_workers=3, common_steps=2, epochs=1, rounds=2, batch_size=8, device="cpu",
            batchnorm_refresh="never", launch="serial", progress=False, **options,
        )  # fmt: skip
        model = build_model("cnn", 4, in_channels=1)
        return warm_start.fit(model, make_images(COUNT), make_images(40))

    one, two = fit(together=1), fit(together=3)
    assert two.report.passes == one.report.passes
    torch.testing.assert_close(two.state_dict, one.state_dict, rtol=1e-2, atol=1e-3)
