"""One worker: theta* and a shard in, a trained replica out, and not a word to anyone between."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.config import WarmStartConfig
from lipt_cords.data import BatchSource
from lipt_cords.models import find_head
from lipt_cords.randomness import generator, isolated_rng
from lipt_cords.warmstart.augment import BatchRandAugment
from lipt_cords.warmstart.averaging import State, all_finite, tensor_state
from lipt_cords.warmstart.cost import synchronize
from lipt_cords.warmstart.descent import descend, deterministic_convolutions
from lipt_cords.warmstart.evaluation import accuracy
from lipt_cords.warmstart.feed import Feed, Pool, channel_range, steps_per_epoch
from lipt_cords.warmstart.objective import LossFunction
from lipt_cords.warmstart.sparsity import Masks, prunable_weights


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker needs.

    Attributes:
        worker: its number, from which its draws derive.
        model: theta*, on the device to train on; the worker trains a copy.
        head: name of the linear head, which is never pruned.
        dataset: the training set, of which only ``indices`` are read.
        indices: the shard, shape (n,).
        config: options of the warm start.
        loss: mean loss of (logits, labels).
        validation: held-out data to evaluate on, or None.
        pool: samples in memory already; without it the worker reads its own.
        tick: called after every step; for a progress bar.
    """

    worker: int
    model: nn.Module
    head: str
    dataset: Dataset[Any]
    indices: Tensor
    config: WarmStartConfig
    loss: LossFunction
    validation: BatchSource | None = None
    pool: Pool | None = None
    tick: Callable[[], None] = lambda: None

    @property
    def steps(self) -> int:
        """Optimizer steps that the worker takes."""
        per_epoch = steps_per_epoch(len(self.indices), self.config.batch_size)
        return self.config.local_steps or max(1, round(self.config.epochs * per_epoch))


@dataclass(frozen=True)
class WorkerResult:
    """A trained replica and what it took.

    Attributes:
        worker: the number of the task.
        state: its state dict; pruned weights are zeros.
        finite: whether every weight is a finite number.
        steps: optimizer steps taken.
        passes: samples trained on, repeats counted.
        loss: mean training loss of the last local epoch.
        accuracy: on held-out data, or None.
        density: share of the prunable weights that was kept.
        seconds: of training, reading its data included.
        evaluation_seconds: of the evaluation on held-out data.
    """

    worker: int
    state: State
    finite: bool
    steps: int
    passes: int
    loss: float
    accuracy: float | None
    density: float
    seconds: float
    evaluation_seconds: float


def run_worker(task: WorkerTask) -> WorkerResult:
    """Train one worker; the same task gives the same bits on every launcher.

    On a CPU this holds for an equal number of threads, because a convolution may add in another
    order with more of them. On a GPU cuDNN is held to deterministic algorithms; a layer whose
    backward pass has none (some poolings, scatters) may still differ in the last bits. Dropout
    and random transforms of the data set draw from the worker's own seed; the global random state
    is left as it was.

    Raises:
        ValueError: inputs that are not finite, or that the augmentation cannot change.
    """
    config, seed = task.config, task.config.seed
    device = next(task.model.parameters()).device
    started = time.perf_counter()
    with isolated_rng(seed, "worker", task.worker), deterministic_convolutions():
        model = copy.deepcopy(task.model)
        feed = Feed(task.dataset, task.indices, device, task.pool, config.loader_workers)
        pruning = _Pruning(task, model)
        single = min(len(feed), config.batch_size) == 1

        def after_step() -> None:
            pruning.keep()
            task.tick()

        descent = descend(
            model,
            feed.epochs(config.batch_size, generator(seed, "worker", task.worker, "order")),
            steps=task.steps,
            last_epoch=min(task.steps, steps_per_epoch(len(feed), config.batch_size)),
            schedule=config.schedule,
            config=config,
            loss=task.loss,
            single_samples=single,
            augment=_augmentation(feed, config),
            before_step=pruning.prune_at,
            after_step=after_step,
        )
        synchronize(device)
        trained = time.perf_counter()
        state = tensor_state(model)
        finite = all_finite(state)
        held_out = None
        if task.validation is not None and finite:
            held_out = accuracy(model, task.validation)
    return WorkerResult(
        worker=task.worker,
        state=state,
        finite=finite,
        steps=task.steps,
        passes=descent.passes,
        loss=descent.loss,
        accuracy=held_out,
        density=pruning.density,
        seconds=trained - started,
        evaluation_seconds=time.perf_counter() - trained,
    )


class _Pruning:
    """Prunes once, before a given step, and keeps the masks on from there."""

    def __init__(self, task: WorkerTask, model: nn.Module) -> None:
        config = task.config
        self._task, self._model = task, model
        self._masks: Masks | None = None
        wanted = config.sparsity != "none" and config.density < 1
        self._at = int(config.prune_after * task.steps) if wanted else -1

    @property
    def density(self) -> float:
        return self._masks.density if self._masks is not None else 1.0

    def prune_at(self, step: int) -> None:
        if step != self._at:
            return
        config, draws = self._task.config, None
        if config.sparsity == "random":
            draws = generator(config.seed, "worker", self._task.worker, "prune")
        head = find_head(self._model, head=self._task.head).module
        self._masks = Masks(prunable_weights(self._model, head), config.density, draws)
        self._masks.apply()

    def keep(self) -> None:
        if self._masks is not None:
            self._masks.apply()


def _augmentation(feed: Feed, config: WarmStartConfig) -> BatchRandAugment | None:
    if config.augmentation == "none":
        return None
    low, high = channel_range(feed)
    return BatchRandAugment(low, high, num_ops=config.num_ops, magnitude=config.magnitude)
