"""theta*, the one start of all workers: a short training on the whole set, if any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.config import WarmStartConfig
from lipt_cords.data import Inputs
from lipt_cords.randomness import generator, isolated_rng
from lipt_cords.warmstart.averaging import all_finite, tensor_state
from lipt_cords.warmstart.descent import descend, deterministic_convolutions
from lipt_cords.warmstart.feed import Feed, Pool, steps_per_epoch
from lipt_cords.warmstart.objective import LossFunction
from lipt_cords.warmstart.shards import balanced_order


def train_common_start(
    model: nn.Module,
    dataset: Dataset[Any],
    labels: Tensor,
    *,
    config: WarmStartConfig,
    loss: LossFunction,
    pool: Pool | None = None,
    tick: Callable[[], None] = lambda: None,
) -> int:
    """Train the common start in place, at a constant rate and without augmentation or masks.

    Samples come in class-balanced order from the whole set, and only those needed are read.

    Args:
        model: on the device to train on.
        dataset: the training set.
        labels: its labels, shape (N,).
        config: ``common_steps``, ``batch_size`` and the options of SGD.
        loss: mean loss of (logits, labels).
        pool: samples in memory already.
        tick: called after every step.

    Returns:
        Samples trained on, repeats counted.

    Raises:
        ValueError: inputs that are not finite, or training that diverges.
    """
    steps, batch_size, seed = config.common_steps, config.batch_size, config.seed
    if steps == 0:
        return 0
    needed = min(len(labels), steps * batch_size)

    def order_of(epoch: int) -> Tensor:
        return balanced_order(labels, generator(seed, "common", epoch))

    indices = order_of(0)[:needed].sort().values
    device = next(model.parameters()).device

    def batches(feed: Feed) -> Iterator[tuple[Inputs, Tensor]]:
        epoch = 0
        while True:
            positions = torch.searchsorted(indices, order_of(epoch)[:needed])
            yield from feed.in_order(
                positions, batch_size, scan=epoch == 0 and not feed.source.resident
            )
            epoch += 1

    with isolated_rng(seed, "common"), deterministic_convolutions():
        feed = Feed(dataset, indices, device, pool, config.loader_workers)
        descent = descend(
            model,
            batches(feed),
            steps=steps,
            last_epoch=min(steps, steps_per_epoch(needed, batch_size)),
            schedule="constant",
            config=config,
            loss=loss,
            single_samples=min(needed, batch_size) == 1,
            after_step=tick,
        )
    if not all_finite(tensor_state(model)):
        raise ValueError(
            f"the common start diverged within {steps} steps: lower lr (received {config.lr:g})"
        )
    return descent.passes
