"""How fast a configuration trains here: measured on a few steps, for an estimate of time."""

from __future__ import annotations

import time

import torch

from lipt_cords.assembly import pick_device
from lipt_cords.choosing import per_sample_loss
from lipt_cords.data import BatchSource, DataSplits
from lipt_cords.models import call_model
from lipt_cords.optimization import build_optimizer
from lipt_cords.randomness import isolated_rng
from lipt_cords.run_config import RunConfig
from lipt_cords.runs import build_net
from lipt_cords.warmstart.descent import autocast_dtype, laid_out, lay_out, memory_layout

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
    half = autocast_dtype(config.train_args.precision, device)
    layout = memory_layout(config.train_args.memory_format, device)
    with isolated_rng(0, "pace"):
        model = build_net(config, splits).to(device).train()
        lay_out(model, layout)
        inputs = laid_out(inputs, layout)
        optimizer, loss = (
            build_optimizer(model.parameters(), config.optimizer),
            per_sample_loss(config),
        )
        began = 0.0
        for step in range(UNTIMED + STEPS):
            if step == UNTIMED:
                began = _now(device)
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                logits = call_model(model, inputs)
            optimizer.zero_grad(set_to_none=True)
            loss(logits.float(), labels).mean().backward()
            optimizer.step()
    return STEPS * size / max(1e-9, _now(device) - began)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
