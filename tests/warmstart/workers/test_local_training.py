"""The loop against a bare one, its schedules, and losses of every reduction."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from warmstart_material import make_net

from lipt_cords.models.losses import mean_loss
from lipt_cords.training.schedules import rate_factor
from lipt_cords.training.step import autocast_dtype, laid_out, lay_out, memory_layout
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.workers.local_training import train_locally


def run(model, batches, **options):
    config = WarmStartConfig(**{"type": "lipt-once", "lr": 0.1, **options.pop("config", {})})
    return train_locally(
        model,
        iter(batches),
        **{
            "steps": len(batches),
            "last_epoch": len(batches),
            "schedule": "constant",
            "config": config,
            "loss": mean_loss(None),
            **options,
        },
    )


def batches_of(train, count=5, size=16):
    x, y = train.tensors
    return [(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size]) for i in range(count)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_it_is_plain_sgd(train, schedule):
    model, batches = make_net(dropout=0), batches_of(train)
    bare = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        bare.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    losses = []
    for step, (x, y) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = (
            0.1
            * {
                "constant": 1,
                "linear": 1 - step / 5,
                "cosine": (1 + math.cos(math.pi * step / 5)) / 2,
            }[schedule]
        )
        loss = F.cross_entropy(bare(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    done = run(model, batches, schedule=schedule)
    for mine, theirs in zip(model.state_dict().values(), bare.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert done.passes == 80
    assert done.loss == pytest.approx(sum(losses) / 5, rel=1e-4)


def test_the_loss_is_that_of_the_last_epoch(train):
    batches = batches_of(train, count=6)
    all_steps = run(make_net(dropout=0), batches)
    late = run(make_net(dropout=0), batches, last_epoch=1)
    assert late.loss < all_steps.loss


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_rates_start_at_the_peak_and_never_rise_or_vanish(schedule):
    factors = [rate_factor(schedule, step, 10) for step in range(10)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert min(factors) > 0


def test_single_samples_do_not_break_batchnorm():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = model[1].running_mean.clone()
    batches = [(torch.randn(1, 3), torch.tensor([1])) for _ in range(3)]
    assert run(model, batches, single_samples=True).passes == 3
    assert model[1].running_mean.equal(before)


def test_bfloat16_forward_keeps_float32_weights(train):
    model = make_net()
    done = run(model, batches_of(train), config={"precision": "bf16"})
    assert math.isfinite(done.loss)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_auto_precision_is_full_on_a_cpu():
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) is None
    assert autocast_dtype("fp32", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("cuts", [[6], [3, 3], [1, 4, 1], [1] * 6])
def test_rounds_share_one_schedule(train, schedule, cuts):
    batches, options = batches_of(train, count=6), {"momentum": 0.0}  # starts afresh in a round
    whole, cut = make_net(dropout=0), make_net(dropout=0)
    run(whole, batches, schedule=schedule, config=options)
    first = 0
    for steps in cuts:
        part = batches[first : first + steps]
        run(cut, part, schedule=schedule, config=options, first_step=first, all_steps=6)
        first += steps
    assert all(v.equal(whole.state_dict()[name]) for name, v in cut.state_dict().items())


def test_each_step_is_taken_between_its_calls(train):
    said = []

    def before(step, inputs, labels):
        said.append((step, len(labels), inputs.is_contiguous(memory_format=torch.channels_last)))
        return 3

    done = run(
        make_net(),
        batches_of(train, count=4, size=8),
        before_step=before,
        after_step=lambda: said.append("after"),
        first_step=4,
        all_steps=12,
        schedule="linear",
    )
    assert said == [part for step in range(4) for part in ((step, 8, True), "after")]
    assert done.passes == 4 * (8 + 3)


def test_layouts_train_alike_and_auto_is_channels_last(train):
    images = torch.randn(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = type(train)(images, train.tensors[1][:80])
    nets = {}
    for choice in ("contiguous", "channels_last", "auto"):
        torch.manual_seed(0)
        nets[choice] = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
        )
        run(nets[choice], batches_of(data), config={"memory_format": choice, "lr": 0.01})
        layout = torch.contiguous_format if choice == "contiguous" else torch.channels_last
        assert nets[choice][0].weight.is_contiguous(memory_format=layout)
        for name, value in nets[choice].state_dict().items():
            expected = nets["contiguous"].state_dict()[name]
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


def test_layouts_of_devices_and_batches():
    cpu, meta = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, device="meta")
    assert memory_layout("auto", cpu) is torch.channels_last
    assert memory_layout("auto", meta) is torch.contiguous_format
    assert memory_layout("channels_last", meta) is torch.channels_last
    assert memory_layout("contiguous", cpu) is torch.contiguous_format
    for narrow, grouped in ((15, 1), (30, 2)):
        net = nn.Sequential(nn.Conv2d(narrow, 32, 1, stride=2, groups=grouped))
        assert memory_layout("auto", net) is torch.contiguous_format
        assert memory_layout("channels_last", net) is torch.channels_last
    for safe in (nn.Conv2d(16, 32, 1, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=2)):
        assert memory_layout("auto", nn.Sequential(safe)) is torch.channels_last
    images = torch.randn(2, 3, 4, 4)
    assert laid_out(images, torch.channels_last).is_contiguous(memory_format=torch.channels_last)
    assert laid_out(images, torch.channels_last).equal(images)
    for other in (torch.randn(2, 3), torch.randn(2, 3, 4, 4, 4), {"tokens": images}):
        assert laid_out(other, torch.channels_last) is other


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape", [(8, 1, 1, 1), (1, 1, 1, 1), (8, 1, 3, 3), (8, 4, 1, 1), (1, 3, 1, 1), (5, 4, 3, 3)]
)
def test_what_is_laid_out_stays_where_it_is(layout, shape):
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(shape))
    model.register_buffer("kept", torch.randn(shape))
    value = model.weight.detach().clone()
    lay_out(model, layout)
    assert model.weight.stride() == torch.empty(shape).to(memory_format=layout).stride()
    assert model.weight.equal(value)
    places = [model.weight.data_ptr(), model.kept.data_ptr()]
    lay_out(model, layout)
    assert [model.weight.data_ptr(), model.kept.data_ptr()] == places


@pytest.mark.parametrize("choice", ["auto", "channels_last", "contiguous"])
def test_volumes_and_sequences_train_in_every_layout(choice):
    for convolution, images in (
        (nn.Conv3d(2, 3, 2), torch.randn(6, 2, 3, 3, 3)),
        (nn.Conv1d(2, 3, 2), torch.randn(6, 2, 9)),
    ):
        model = nn.Sequential(convolution, nn.Flatten(), nn.Linear(24, 3))
        done = run(model, [(images, LABELS)], config={"memory_format": choice})
        assert math.isfinite(done.loss)


LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    "loss",
    [
        None,
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="none"),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"),
        lambda logits, labels: F.cross_entropy(logits, labels),
    ],
)
def test_every_reduction_gives_the_mean(loss):
    expected = F.cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(mean_loss(loss)(LOGITS, LABELS), expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_mse_gets_one_hot_targets(reduction):
    expected = (LOGITS - F.one_hot(LABELS, 3)).square().mean()
    loss = nn.MSELoss(reduction=reduction)
    torch.testing.assert_close(mean_loss(loss)(LOGITS, LABELS), expected)
    assert loss.reduction == reduction


def test_narrow_strided_shortcuts_train_with_several_threads():
    """In channels_last torch 2.14 writes past its memory there, and the process dies."""
    code = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from lipt_cords import train_on_subset
torch.set_num_threads(2)
for channels in (6, 9, 11, 14):
    net = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels + 3, 1, stride=2),
        nn.Flatten(), nn.LazyLinear(2),
    )
    net(torch.randn(1, 3, 16, 16))
    data = TensorDataset(torch.randn(100, 3, 16, 16), torch.arange(100) % 2)
    train_on_subset(net, data, range(100), epochs=2, batch_size=25)
print("trained")
"""
    waiting = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # not by turning round
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=waiting)
    assert done.stdout == "trained\n", done.stderr
