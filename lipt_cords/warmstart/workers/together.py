"""The workers of one process: in turn, or several at once as one batched net."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipt_cords.base.devices import is_accelerator, random_state, set_random_state, synchronize
from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.models.state import all_finite, tensor_state
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.training.step import deterministic_convolutions, lay_out, memory_layout
from lipt_cords.warmstart.workers.batches import WorkerBatches
from lipt_cords.warmstart.workers.ema import WeightAverage
from lipt_cords.warmstart.workers.ensemble import Batch, Ensemble, obstacle, speedup, train_ensemble
from lipt_cords.warmstart.workers.pruning import Pruning
from lipt_cords.warmstart.workers.visits import VisitLog, probability_and_margin
from lipt_cords.warmstart.workers.worker import (
    WorkerResult,
    WorkerTask,
    augmentation,
    evaluate_worker,
    run_worker,
)

logger = logging.getLogger(__name__)

LARGEST_GROUP = 16
"""Workers that ``together="auto"`` trains at once at most."""
FEWEST_STEPS = 30
"""Steps of a worker below which ``auto`` does not measure: the measurement would not pay."""
LEAST_SPEEDUP = 1.1
"""Speedup from which ``auto`` trains workers at once."""


def run_workers(tasks: Sequence[WorkerTask]) -> Iterator[WorkerResult]:
    """Train some workers and yield each result as soon as it is ready.

    With ``together=G`` of the configuration, G neighbours are trained at once (fewer where their
    numbers of steps differ), and the results of a group come after its last step.

    Args:
        tasks: of one round, and equal except for the worker and its shard.

    Raises:
        ValueError: ``together`` is a number, and the workers cannot be trained at once.
    """
    size = _group_size(tasks)
    for start in range(0, len(tasks), size):
        for group in _alike(tasks[start : start + size]):
            if len(group) == 1:
                yield run_worker(group[0])
                continue
            try:
                yield from train_at_once(group)
            except torch.OutOfMemoryError as error:
                raise ValueError(
                    f"{len(group)} workers at once do not fit into the device's memory: set "
                    f"together to a smaller number (received {group[0].config.together!r})"
                ) from error


def _group_size(tasks: Sequence[WorkerTask]) -> int:
    """The number of workers to train at once; 1: in turn."""
    wanted = tasks[0].config.together if len(tasks) > 1 else 1
    if wanted == 1:
        return 1
    if wanted == "auto":
        return _measured_size(tasks)
    why_not = _obstacle(tasks)
    if why_not is not None:
        raise ValueError(
            f"these workers cannot be trained at once (together={wanted}): {why_not}; set "
            "together=1, or 'auto' to train at once only what can be"
        )
    return wanted


def _measured_size(tasks: Sequence[WorkerTask]) -> int:
    """The group size of ``auto``: groups of nearly equal sizes, if they are faster than in turn."""
    groups = -(-len(tasks) // LARGEST_GROUP)
    size, first = -(-len(tasks) // groups), tasks[0]
    why_not = f"fewer than {FEWEST_STEPS} steps" if first.steps < FEWEST_STEPS else _obstacle(tasks)
    if why_not is not None:
        logger.info("workers train in turn: %s", why_not)
        return 1
    with isolated_rng(first.config.seed, "measure"), deterministic_convolutions():
        try:
            gain = speedup(first.model, first.loss, _first_batch(first), first.config, size)
        except torch.OutOfMemoryError:
            logger.info("workers train in turn: %d at once do not fit", size)
            return 1
    how = f"{size} at once" if gain >= LEAST_SPEEDUP else "in turn"
    logger.info("workers train %s: %d at once are %.2f times as fast", how, size, gain)
    return size if gain >= LEAST_SPEEDUP else 1


def _obstacle(tasks: Sequence[WorkerTask]) -> str | None:
    """The reason why these workers cannot be trained at once; None if they can."""
    first = tasks[0]
    config = first.config
    if config.compile:
        return "compile=True compiles a single net"
    if config.batch_size == 1 or any(len(task.indices) == 1 for task in tasks):
        return "a batch holds a single sample"
    with isolated_rng(config.seed, "rehearse"), deterministic_convolutions():
        return obstacle(first.model, first.loss, _first_batch(first), config)


def _first_batch(task: WorkerTask) -> Batch:
    """Some samples of a worker, for a trial step."""
    config, device = task.config, next(task.model.parameters()).device
    indices = task.indices[: config.batch_size]
    worker_batches = WorkerBatches(task.dataset, indices, device, task.pool, config.loader_workers)
    return next(worker_batches.epochs(config.batch_size, generator(config.seed, "rehearse")))


def _alike(tasks: Sequence[WorkerTask]) -> Iterator[list[WorkerTask]]:
    """Split tasks by their positions in the schedule, in order of appearance."""
    groups: dict[tuple[int, ...], list[WorkerTask]] = {}
    for task in tasks:
        groups.setdefault((task.first_step, task.steps, task.all_steps), []).append(task)
    yield from groups.values()


def train_at_once(tasks: Sequence[WorkerTask]) -> Iterator[WorkerResult]:
    """Train workers at once, and evaluate them one by one.

    Equal to :func:`lipt_cords.warmstart.workers.worker.run_worker` up to rounding, except for
    dropout, whose draws derive from the seed and the workers in the group. ``seconds`` of every
    worker are those of the whole group, because none is ready earlier: an upper bound for a single
    worker. Weights, gradients, momentum, masks and activations of all are in memory at once.
    """
    first, started = tasks[0], time.perf_counter()
    config, device = first.config, next(first.model.parameters()).device
    numbers = [task.worker for task in tasks]
    with (
        isolated_rng(config.seed, "together", *numbers, "round", first.round),
        deterministic_convolutions(),
    ):
        ensemble = Ensemble([task.model for task in tasks], first.loss, first.head)
        workers = [StackedWorker(task, net) for task, net in zip(tasks, ensemble.nets, strict=True)]
        average = None if config.ema is None else WeightAverage(ensemble, config.ema)
        pruned: list[Tensor] = []
        masks: list[Tensor] = []

        def before_step(step: int, batches: Sequence[Batch]) -> None:
            for worker, (inputs, labels) in zip(workers, batches, strict=True):
                worker.passes += worker.pruning.before(step, inputs, labels)
            found = [worker.pruning.masks for worker in workers if worker.pruning.masks is not None]
            if found and not masks:
                pruned.extend(weight for one in found for weight in one.weights)
                masks.extend(mask for one in found for mask in one.masks)

        def observe(places: slice, logits_GBC: Tensor, labels_GB: Tensor) -> None:
            seen = probability_and_margin(logits_GBC.flatten(0, 1), labels_GB.flatten())
            seen_2GB = seen.view(2, *labels_GB.shape)
            for worker, seen_2B in zip(workers[places], seen_2GB.unbind(1), strict=True):
                worker.log(seen_2B)

        if config.log_samples:
            ensemble.observe = observe

        def keep() -> None:
            if masks:  # for all workers at once
                torch._foreach_mul_(pruned, masks)

        def after_step() -> None:
            keep()
            if average is not None:
                average.step()
            for worker in workers:
                worker.task.tick()

        losses_GT = train_ensemble(
            ensemble,
            lambda: [worker.read() for worker in workers],
            steps=first.steps,
            config=config,
            last_epoch=max(worker.last_epoch for worker in workers),
            first_step=first.first_step,
            all_steps=first.all_steps,
            decay=first.decay_steps,
            before_step=before_step,
            after_step=after_step,
        )
        if average is not None:
            average.write(None)
            keep()
        ensemble.zero_grad()  # frees memory for the evaluation
        synchronize(device)
        seconds = time.perf_counter() - started
    for worker, losses in zip(workers, losses_GT.tolist(), strict=True):
        yield worker.result(losses, seconds)


class StackedWorker:
    """One worker in an ensemble: its batches, in its own order with its own draws, and its masks.

    Args:
        task: the worker.
        model: its net in an ensemble.
    """

    def __init__(self, task: WorkerTask, model: nn.Module) -> None:
        config = task.config
        self.task, self.model = task, model
        self._device = next(model.parameters()).device
        self._random_states = WorkerRandomStates(self._device, config.seed, *task.names)
        with self._random_states:
            self._worker_batches = WorkerBatches(
                task.dataset, task.indices, self._device, task.pool, config.loader_workers,
                task.reads,
            )  # fmt: skip
            self._augment = augmentation(self._worker_batches, config)
        self._reading_draws = self._augment is not None or not self._worker_batches.source.resident
        order = generator(config.seed, "worker", task.worker, "order")
        self._batches = self._worker_batches.epochs(config.batch_size, order, skip=task.first_step)
        self.pruning = Pruning(
            model, task.head, config=config, loss=task.loss, steps=task.steps, names=task.names
        )
        self._log = VisitLog(task.indices)
        self.passes = 0
        self.last_epoch = min(
            task.steps, steps_per_epoch(len(self._worker_batches), config.batch_size)
        )
        self._sizes: deque[int] = deque(maxlen=self.last_epoch)

    def read(self) -> Batch:
        """The next batch, augmented."""
        with self._random_states if self._reading_draws else nullcontext():
            inputs, labels = next(self._batches)
            if self._augment is not None and isinstance(inputs, Tensor):
                inputs = self._augment(inputs)
        self.passes += len(labels)
        self._sizes.append(len(labels))
        return inputs, labels

    def log(self, seen_2B: Tensor) -> None:
        """Log the batch that was read last."""
        self._log.add(self._worker_batches.current, seen_2B)

    def result(self, losses: Sequence[float], seconds: float) -> WorkerResult:
        """Evaluate the trained net.

        Args:
            losses: of the last steps, at least those of the last epoch.
            seconds: of the training.
        """
        started, task = time.perf_counter(), self.task
        with self._random_states, deterministic_convolutions():
            lay_out(self.model, memory_layout(task.config.memory_format, self.model))
            state = tensor_state(self.model)
            finite = all_finite(state)
            accurate, reading, forward = (
                evaluate_worker(task, self.model) if finite else (None, None, 0)
            )
        last = losses[len(losses) - self.last_epoch :]
        total = sum(loss * size for loss, size in zip(last, self._sizes, strict=True))
        return WorkerResult(
            worker=task.worker,
            state=state,
            finite=finite,
            steps=task.steps,
            passes=self.passes,
            loss=total / sum(self._sizes),
            accuracy=accurate,
            density=self.pruning.density,
            seconds=seconds,
            evaluation_seconds=time.perf_counter() - started,
            reading=reading,
            forward_passes=forward,
            visits=self._log.visits() if finite and task.config.log_samples else None,
        )


class WorkerRandomStates:
    """The global random states of one worker: active inside the context, stored outside of it.

    Args:
        device: where it trains; an accelerator has its own state.
        seed: of the warm start.
        names: names from which the states derive, in addition to the seed.
    """

    def __init__(self, device: torch.device, seed: int, *names: str | int) -> None:
        self._accelerator = device if is_accelerator(device) else None
        with isolated_rng(seed, *names):
            self._states = self._read()

    def __enter__(self) -> None:
        self._outer = self._read()
        self._write(self._states)

    def __exit__(self, *error: object) -> None:
        self._states = self._read()
        self._write(self._outer)

    def _read(self) -> tuple[Any, ...]:
        there = None if self._accelerator is None else random_state(self._accelerator)
        return random.getstate(), np.random.get_state(), torch.get_rng_state(), there  # noqa: NPY002

    def _write(self, states: tuple[Any, ...]) -> None:
        python_state, numpy_state, torch_state, there = states
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if self._accelerator is not None:
            set_random_state(self._accelerator, there)
