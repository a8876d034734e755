"""Optimizers and schedules under CORDS's names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipt_cords.training.optimizers import OptimizerConfig, build_optimizer
from lipt_cords.training.scheduler import SchedulerConfig


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


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.type: .*'lion'"):
        OptimizerConfig(type="lion")
    with pytest.raises(ValueError, match=r"scheduler\.type: .*'warmup'"):
        SchedulerConfig(type="warmup")
