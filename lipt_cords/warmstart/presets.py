"""The presets, and how they are scaled to the data and the processes.

``lipt`` is the best setting that was found: workers train with Muon, are merged up to 40 times by
Nesterov steps, and their rate falls to zero at the last merge. Steps follow from passes over the
data, and workers from the processes; a single process trains one worker on all data, since workers
in turn would cost it more passes. ``lipt-once`` is the method of the paper: one merge of pruned
workers, for machines that cannot exchange weights more than once. ``lipt-finetune`` starts from
pretrained weights: AdamW at a small rate that falls to zero, and merges more often. Its rate grows
with the square root of the workers, since a step of all is one of a larger batch (Malladi et al.,
NeurIPS 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.warmstart.config import SGD, WarmStartConfig
from lipt_cords.warmstart.forecast import forecast

MOST_MERGES = 40
STEPS_BETWEEN_MERGES = {"lipt": 15, "lipt-finetune": 4}
COMMON_EPOCHS = 0.16
"""Passes of the common start, over the samples of the pool."""
LEAST_COMMON_STEPS = 20
EPOCHS_ALONE = 3.0
"""Epochs of a single worker over all data."""
EPOCHS_OF_WORKERS = 8.0
"""Local epochs of 16 workers or more."""
POWER = math.log(EPOCHS_OF_WORKERS / EPOCHS_ALONE, 16)

ALONE = (
    "one process was there, so one worker trained on all data: workers in turn cost more passes "
    "for the same signal; set num_workers, or start more processes"
)
"""The note of the report where the preset took one worker."""


def local_epochs(workers: int) -> float:
    """Local epochs of every worker.

    Workers that are merged need more passes in all than one that trains alone.

    >>> local_epochs(1), local_epochs(4), local_epochs(16), local_epochs(64)
    (3.0, 4.9, 8.0, 8.0)
    """
    return min(EPOCHS_OF_WORKERS, round(EPOCHS_ALONE * float(workers**POWER), 1))


def scaled(
    config: WarmStartConfig,
    samples: int,
    processes: int = 1,
    *,
    model: nn.Module | None = None,
    shards: Sequence[Tensor] | None = None,
) -> WarmStartConfig:
    """The options of a preset for a pool of that size; given ones stay as they are.

    Args:
        config: the options; those of ``lipt-once`` are returned unchanged.
        samples: in the pool.
        processes: that train at the same time: as many workers, if ``num_workers`` is not given.
        model: a net without hidden weight matrices is trained by SGD, if no optimizer is given.
        shards: given shards: as many workers.

    Raises:
        ValueError: given options that do not fit what follows from the others.

    >>> options = scaled(WarmStartConfig(), 20_000, processes=16)
    >>> options.num_workers, options.epochs, options.common_steps, options.rounds
    (16, 8.0, 200, 40)
    >>> options = scaled(WarmStartConfig(batch_size=64), 1_000)
    >>> options.num_workers, options.epochs, options.common_steps, options.rounds
    (1, 3.0, 0, 1)
    """
    if config.type == "lipt-once":
        return config
    given = config.model_fields_set
    workers = processes if shards is None else len(shards)
    workers = config.num_workers if "num_workers" in given else workers
    epochs = config.epochs if "epochs" in given else local_epochs(workers)
    searched = config.early_bird is not None and not config.early_bird.vote
    common = max(LEAST_COMMON_STEPS, round(COMMON_EPOCHS * samples / config.batch_size))
    shard = max(1, round(config.shard_fraction * samples) // workers)
    steps = config.local_steps or round(epochs * steps_per_epoch(shard, config.batch_size))
    options: dict[str, Any] = {
        "num_workers": workers,
        "epochs": epochs,
        "common_steps": common if workers > 1 or searched else 0,
        "rounds": _merges(config, workers, steps),
    }
    options |= {name: getattr(config, name) for name in options if name in given}
    single = options["rounds"] == 1 or workers == 1
    if single and not given & {"outer", "outer_lr", "outer_momentum"}:
        options["outer"] = "average"
    free = not given & {"optimizer", "rest", "rest_lr"}
    if free and model is not None and not hidden_matrices(model, config.head):
        options["optimizer"] = "sgd"
        options |= {name: value for name, value in SGD.items() if name not in given}
    if config.type == "lipt-finetune" and config.optimizer == "adamw" and "lr" not in given:
        options["lr"] = config.lr * math.sqrt(workers)
    made = config.model_copy(update=options)
    try:
        made.require_agreement()
    except ValueError as error:
        if "num_workers" in given:
            raise
        raise ValueError(
            f"{error} (num_workers was left out, so each of {workers} processes trains a worker: "
            "set num_workers, or start more processes)"
        ) from None
    return made


def cost_line(config: WarmStartConfig, samples: int) -> str:
    """What a warm start will do and cost, in one line.

    >>> print(cost_line(scaled(WarmStartConfig(), 20_000, processes=16), 20_000))
    lipt: 16 workers, 40 merges; 13,200 passes one after another, 163,200 in all (8.2 epochs)
    """
    cost = forecast(config, samples)
    what = f"{config.num_workers} workers, {config.rounds} merge{'s'[: config.rounds > 1]}"
    if config.num_workers == 1:
        what = "one worker on all data"
    in_all = f"{cost.passes:,} in all " if cost.passes != cost.critical_passes else ""
    return (
        f"{config.type}: {what}; {cost.critical_passes:,} passes one after another"
        f"{', ' if in_all else ' '}{in_all}({cost.passes / samples:.1f} epochs)"
    )


def _merges(config: WarmStartConfig, workers: int, steps: int) -> int:
    """The number of merges of workers of so many steps."""
    voted = config.early_bird is not None and config.early_bird.vote
    several = voted or config.stop_when is not None
    if workers == 1 and not several:
        return 1
    return max(2 if several else 1, min(MOST_MERGES, steps // STEPS_BETWEEN_MERGES[config.type]))
