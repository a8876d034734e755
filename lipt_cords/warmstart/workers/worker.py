"""One worker: theta* and a shard in, a trained replica out, without any communication."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.devices import synchronize
from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.data.batches import Inputs
from lipt_cords.data.source import BatchSource
from lipt_cords.models.copies import copy_model
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import State, all_finite, tensor_state
from lipt_cords.training.cheaper.channels import scaled_batchnorms
from lipt_cords.training.cheaper.paths import Paths
from lipt_cords.training.cheaper.tickets import penalise_scales
from lipt_cords.training.evaluation import accuracy
from lipt_cords.training.schedules import merge_steps, steps_per_epoch
from lipt_cords.training.step import deterministic_convolutions, lay_out, memory_layout
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.watch.probe import Probe, Reading
from lipt_cords.warmstart.workers.augment import AUGMENTATIONS, Augment
from lipt_cords.warmstart.workers.batches import Pool, WorkerBatches, channel_range
from lipt_cords.warmstart.workers.ema import WeightAverage
from lipt_cords.warmstart.workers.local_training import train_locally
from lipt_cords.warmstart.workers.pruning import Pruning
from lipt_cords.warmstart.workers.visits import VisitLog, Visits, probability_and_margin


@dataclass(frozen=True)
class WorkerTask:
    """The inputs of a worker for one round.

    Attributes:
        worker: its number; its draws derive from it.
        model: the round's start (theta* in the first), on the device to train on; the worker
            trains a copy.
        head: name of the linear head, which is never pruned.
        dataset: the training set, of which only ``indices`` are read.
        indices: the shard, shape (n,).
        config: options of the warm start.
        loss: mean loss of (logits, labels).
        round: number of the round.
        decay: rounds (first, end) in which ``wsd`` lowers the rate, without ``end``; None: over the
            last quarter of all steps.
        validation: held-out data to evaluate on, or None.
        probe: held-out samples on which workers are compared, or None.
        pool: samples that are already in memory; without it the worker reads its own.
        scale_penalty: L1 penalty of BatchNorm's scales, or None.
        block_shares: with ``subnetwork``, each block's share of a step's operations.
        tick: called after every step; for a progress bar.
    """

    worker: int
    model: nn.Module
    head: str
    dataset: Dataset[Any]
    indices: Tensor
    config: WarmStartConfig
    loss: LossFunction
    round: int = 0
    decay: tuple[int, int] | None = None
    validation: BatchSource | None = None
    probe: Probe | None = None
    pool: Pool | None = None
    scale_penalty: float | None = None
    block_shares: tuple[float, ...] = ()
    tick: Callable[[], None] = lambda: None

    @property
    def all_steps(self) -> int:
        """Optimizer steps that the worker takes in all rounds together."""
        return local_steps(self.config, len(self.indices))

    @property
    def first_step(self) -> int:
        """Steps that it has taken in earlier rounds."""
        return self._steps_before(self.round)

    @property
    def steps(self) -> int:
        """Optimizer steps that it takes in this round."""
        return self._steps_before(self.round + 1) - self.first_step

    @property
    def decay_steps(self) -> tuple[int, int] | None:
        """``decay`` in steps."""
        if self.decay is None:
            return None
        return self._steps_before(self.decay[0]), self._steps_before(self.decay[1])

    @property
    def reads(self) -> int | None:
        """Samples that it reads in this round, if there are several rounds."""
        return self.steps * self.config.batch_size if self.config.rounds > 1 else None

    def _steps_before(self, number: int) -> int:
        config = self.config
        steps = merge_steps(config.merge_schedule, config.schedule, self.all_steps, config.rounds)
        return steps[number]

    @property
    def names(self) -> tuple[str | int, ...]:
        """Names from which the draws of this round derive, in addition to the seed."""
        return ("worker", self.worker, *(("round", self.round) if self.round else ()))


@dataclass(frozen=True)
class WorkerResult:
    """A trained replica and its costs, in one round.

    Attributes:
        worker: the number of the task.
        state: its state dict; pruned weights are zeros.
        finite: whether every weight is a finite number.
        steps: optimizer steps taken.
        passes: samples trained on, repeats counted.
        loss: mean training loss of the last local epoch.
        accuracy: on held-out data, or on the probe; None without any.
        density: share of the prunable weights that was kept.
        seconds: of training, reading its data included; with ``together``, of its whole group.
        evaluation_seconds: of the evaluation on held-out data.
        reading: losses and gradients on the probe, or None.
        forward_passes: samples that the evaluation ran forward.
        work: operations of its training over those of the whole net; 1 without ``subnetwork``.
        stages: with ``subnetwork``, what each stage cost.
        visits: with ``log_samples``, what it saw of its samples; None if it is not finite.
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
    reading: Reading | None = None
    forward_passes: int = 0
    work: float = 1.0
    stages: list[dict[str, float]] = field(default_factory=list)
    visits: Visits | None = None


def local_steps(config: WarmStartConfig, samples: int) -> int:
    """Optimizer steps of a worker with a shard of that size, over all rounds; at least one each."""
    per_epoch = steps_per_epoch(samples, config.batch_size)
    return config.local_steps or max(config.rounds, round(config.epochs * per_epoch))


def run_worker(task: WorkerTask) -> WorkerResult:
    """Train one worker for a round; the same task gives the same bits on every launcher.

    On a CPU this holds for an equal number of threads, because a convolution may add in another
    order with more threads. On a GPU cuDNN is held to deterministic algorithms; a layer whose
    backward pass has none (some poolings, scatters) may still differ in the last bits. Dropout and
    random transforms of the data set draw from the worker's own seed; the global random state is
    left as it was. Momentum is reset in every round, so that a round is a function of its start.

    Raises:
        ValueError: inputs that are not finite, or that the augmentation cannot change.
    """
    config, seed = task.config, task.config.seed
    device = next(task.model.parameters()).device
    started = time.perf_counter()
    with isolated_rng(seed, *task.names), deterministic_convolutions():
        layout = memory_layout(config.memory_format, task.model)
        # Before anything refers to its weights: another layout needs other memory.
        model = copy_model(task.model)
        lay_out(model, layout)
        worker_batches = WorkerBatches(
            task.dataset, task.indices, device, task.pool, config.loader_workers, task.reads
        )
        pruning = Pruning(
            model, task.head, config=config, loss=task.loss, steps=task.steps, names=task.names
        )
        average = None if config.ema is None else WeightAverage(model, config.ema)
        paths = None
        if config.subnetwork is not None:
            names = ("worker", task.worker)
            paths = Paths(model, config.subnetwork, task.all_steps, seed, *names)

        def before_step(step: int, inputs: Inputs, labels: Tensor) -> int:
            if paths is None:
                return pruning.before(step, inputs, labels)
            paths.run_all_blocks()  # SNIP needs the gradients of all weights
            taken = pruning.before(step, inputs, labels)
            paths.choose(task.first_step + step, len(labels))
            return taken

        def after_step() -> None:
            pruning.keep()
            if average is not None:
                average.step()
            task.tick()

        def observe(logits: Tensor, labels: Tensor) -> None:
            log.add(worker_batches.current, probability_and_margin(logits, labels))

        log = VisitLog(task.indices)
        after_backward = None
        if task.scale_penalty is not None:
            scales = scaled_batchnorms(model)
            after_backward = partial(penalise_scales, scales, task.scale_penalty)
        order = generator(seed, "worker", task.worker, "order")
        with nullcontext() if paths is None else paths.applied():
            training = train_locally(
                model,
                worker_batches.epochs(config.batch_size, order, skip=task.first_step),
                steps=task.steps,
                last_epoch=min(task.steps, steps_per_epoch(len(worker_batches), config.batch_size)),
                schedule=config.schedule,
                config=config,
                loss=task.loss,
                first_step=task.first_step,
                all_steps=task.all_steps,
                decay=task.decay_steps,
                head=task.head,
                single_samples=min(len(worker_batches), config.batch_size) == 1,
                augment=augmentation(worker_batches, config),
                before_step=before_step,
                after_backward=after_backward,
                after_step=after_step,
                observe=observe if config.log_samples else None,
            )
        if average is not None:
            average.write(pruning.masks)
        synchronize(device)
        trained = time.perf_counter()
        state = tensor_state(model)
        finite = all_finite(state)
        accurate, reading, forward = evaluate_worker(task, model) if finite else (None, None, 0)
    return WorkerResult(
        worker=task.worker,
        state=state,
        finite=finite,
        steps=task.steps,
        passes=training.passes,
        loss=training.loss,
        accuracy=accurate,
        density=pruning.density,
        seconds=trained - started,
        evaluation_seconds=time.perf_counter() - trained,
        reading=reading,
        forward_passes=forward,
        work=1.0 if paths is None else _work(paths, training.passes, task.block_shares),
        stages=[] if paths is None else paths.stages(task.block_shares),
        visits=log.visits() if finite and config.log_samples else None,
    )


def _work(paths: Paths, passes: int, shares: tuple[float, ...]) -> float:
    """Operations of all passes over those of the whole net; SNIP's batch runs on the whole net."""
    stages = paths.stages(shares)
    on_paths = sum(stage["passes"] for stage in stages)
    return (paths.spent(shares) + passes - on_paths) / passes


def evaluate_worker(task: WorkerTask, model: nn.Module) -> tuple[float | None, Reading | None, int]:
    """Accuracy, reading, and the number of samples read; one pass if it is enough for both."""
    reading, taken = None, 0
    if task.probe is not None:
        reading, taken = task.probe.read(model), len(task.probe)
    if task.validation is None or (task.probe is not None and task.probe.is_everything):
        return None if reading is None else reading.accuracy, reading, taken
    return accuracy(model, task.validation), reading, taken + len(task.validation)


def augmentation(worker_batches: WorkerBatches, config: WarmStartConfig) -> Augment | None:
    """The augmentation of a worker's batches, or None."""
    if config.augmentation == "none":
        return None
    low, high = channel_range(worker_batches)
    return AUGMENTATIONS[config.augmentation](config, low, high)
