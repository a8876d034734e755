"""The loop against a bare one, its schedules, and losses of every reduction."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from warmstart_material import make_net

from lipt_cords.config import WarmStartConfig
from lipt_cords.warmstart.descent import autocast_dtype, descend, rate_factor
from lipt_cords.warmstart.objective import mean_loss


def run(model, batches, **options):
    config = WarmStartConfig(**{"lr": 0.1, **options.pop("config", {})})
    return descend(
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
