"""How fast a configuration trains here: measured on a few steps, for an estimate of time."""

from __future__ import annotations

import time

import torch

from lipt_cords.base.devices import synchronize
from lipt_cords.base.randomness import isolated_rng
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits
from lipt_cords.data.source import BatchSource
from lipt_cords.experiments.assemble import pick_device
from lipt_cords.experiments.choose import per_sample_loss
from lipt_cords.experiments.run import build_net
from lipt_cords.training.optimizers import build_optimizer
from lipt_cords.training.step import Step, autocast_dtype, weighted_loss

STEPS, UNTIMED = 8, 3


def training_pace(config: RunConfig, splits: DataSplits) -> float:
    """Sample-passes a second of a net of the configuration, in its precision and batches.

    Args:
        config: net, optimizer, batch size.
        splits: its data, of which one batch is read.
    """
    device = pick_device(config.train_args.device, [])
    size = min(config.dataloader.batch_size, len(splits.train))  # type: ignore[arg-type]
    inputs, labels = next(
        BatchSource(splits.train, range(size), device=device).batches(batch_size=size)
    )
    given, weights = config.train_args, torch.ones(size, device=device)
    with isolated_rng(0, "pace"):
        model = build_net(config, splits).to(device).train()
        half = autocast_dtype(given.precision, device)
        optimizer = build_optimizer(model, config.optimizer, precision=half)
        loss = weighted_loss(per_sample_loss(config), labels, weights)
        step = Step(model, optimizer, precision=given.precision, memory_format=given.memory_format)
        began = 0.0
        for number in range(UNTIMED + STEPS):
            if number == UNTIMED:
                began = _now(device)
            step(inputs, loss)
    return STEPS * size / max(1e-9, _now(device) - began)


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()
