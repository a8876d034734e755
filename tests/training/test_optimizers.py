"""Optimizers and schedules under CORDS's names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipt_cords.training.optimizers import (
    OptimizerConfig,
    SchedulerConfig,
    build_optimizer,
    build_scheduler,
)


def _rates(config: SchedulerConfig, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, config, epochs=epochs)
    rates = []
    for _ in range(epochs):
        rates.append(round(optimizer.param_groups[0]["lr"], 4))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_optimizers(kind: str, cls: type) -> None:
    config = OptimizerConfig(type=kind, lr=0.3, weight_decay=0.1)
    optimizer = build_optimizer(nn.Linear(1, 1), config)
    assert type(optimizer) is cls
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_sgd_takes_momentum_and_nesterov() -> None:
    config = OptimizerConfig(momentum=0.8, nesterov=True)
    group = build_optimizer(nn.Linear(1, 1), config).param_groups[0]
    assert group["momentum"] == 0.8 and group["nesterov"]
    plain = OptimizerConfig(momentum=0.0, nesterov=True)
    assert not build_optimizer(nn.Linear(1, 1), plain).param_groups[0]["nesterov"]


def test_schedules() -> None:
    assert _rates(SchedulerConfig(), 4) == [1.0, 0.8536, 0.5, 0.1464]
    assert _rates(SchedulerConfig(T_max=2), 3) == [1.0, 0.5, 0.0]
    assert _rates(SchedulerConfig(type=None), 3) == [1.0, 1.0, 1.0]
    steps = SchedulerConfig(type="linear_decay", stepsize=2, gamma=0.1)
    assert _rates(steps, 5) == [1.0, 1.0, 0.1, 0.1, 0.01]
    stones = SchedulerConfig(type="multistep", milestones=(1, 3), gamma=0.5)
    assert _rates(stones, 4) == [1.0, 0.5, 0.5, 0.25]
    restarts = SchedulerConfig(type="cosine_annealing_WS", T_0=2)
    assert _rates(restarts, 4) == [1.0, 0.5, 1.0, 0.5]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.type: .*'lion'"):
        OptimizerConfig(type="lion")
    with pytest.raises(ValueError, match=r"scheduler\.type: .*'warmup'"):
        SchedulerConfig(type="warmup")
