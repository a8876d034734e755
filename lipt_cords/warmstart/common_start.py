"""theta*, the common start of all workers: a short training on the whole set, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.data.batches import Inputs
from lipt_cords.data.splits import balanced_order
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import State, all_finite, buffers_restored, tensor_state
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.training.step import deterministic_convolutions
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.round_inputs import RoundInputs
from lipt_cords.warmstart.run import CommonStart, Run
from lipt_cords.warmstart.team import Team
from lipt_cords.warmstart.watch.watcher import StepHook, Watchers
from lipt_cords.warmstart.workers.batches import Pool, WorkerBatches
from lipt_cords.warmstart.workers.local_training import train_locally


def common_start(
    run: Run, inputs: RoundInputs, config: WarmStartConfig, team: Team, watchers: Watchers
) -> State:
    """theta* on every rank: trained by rank 0, or read from ``work_dir``.

    Returns:
        Its weights, in the shapes of ``run.net``, which watchers may have replaced.
    """
    trained: list[State] = []

    def on_rank_0() -> CommonStart:
        done = watchers.stored_start()
        if done is None:
            # No merge has the buffers that are not in the state dict.
            with buffers_restored(inputs.model, but=inputs.model.state_dict()):
                done = train_common_start(
                    inputs.model,
                    inputs.dataset,
                    inputs.labels,
                    config=config,
                    loss=inputs.loss,
                    head=inputs.plan.head,
                    pool=inputs.pool,
                    hook=watchers.step_hook(),
                    tick=team.tick,
                )
            watchers.keep_start(done)
        if done.state is not None:
            trained.append(done.state)
        return replace(done, state=None)

    team.announce("common start")
    done = team.ranks.on_main(on_rank_0, "the common start")
    watchers.after_common_start(run, done)
    run.common_passes, run.common_work = done.passes, done.work(run.net_work)
    if trained:  # on rank 0
        run.net.load_state_dict(trained[0])
    return team.ranks.broadcast(tensor_state(run.net))


def train_common_start(
    model: nn.Module,
    dataset: Dataset[Any],
    labels: Tensor,
    *,
    config: WarmStartConfig,
    loss: LossFunction,
    head: str | None = None,
    pool: Pool | None = None,
    hook: StepHook | None = None,
    tick: Callable[[], None] = lambda: None,
) -> CommonStart:
    """Train the common start in place, at a constant rate and without augmentation or masks.

    Samples come in class-balanced order from the whole set; only those needed are read. A hook may
    replace the net; training then continues with a new optimizer.

    Args:
        model: on the device to train on.
        dataset: the training set.
        labels: its labels, shape (N,).
        config: ``common_steps``, ``batch_size`` and the options of the optimizer.
        loss: mean loss of (logits, labels).
        head: name of the linear head; None: the last linear layer.
        pool: samples that are already in memory.
        hook: called in the steps, or None.
        tick: called after every step.

    Returns:
        What it did, and the final weights.

    Raises:
        ValueError: inputs that are not finite, or training that diverges.
    """
    steps, batch_size, seed = config.common_steps, config.batch_size, config.seed
    if steps == 0:
        return CommonStart(0, 0, state=tensor_state(model))
    indices = common_samples(config, labels)
    needed = len(indices)
    device = next(model.parameters()).device

    def batches(worker_batches: WorkerBatches) -> Iterator[tuple[Inputs, Tensor]]:
        epoch = 0
        while True:
            order = _order_of(labels, seed, epoch)[:needed]
            positions = torch.searchsorted(indices, order)
            yield from worker_batches.in_order(
                positions, batch_size, scan=epoch == 0 and not worker_batches.source.resident
            )
            epoch += 1

    passes, on_given_net, taken, net, drawn = 0, 0, 0, model, None
    with isolated_rng(seed, "common"), deterministic_convolutions():
        samples = batches(WorkerBatches(dataset, indices, device, pool, config.loader_workers))
        while taken < steps:
            left = steps - taken
            watched = hook if net is model else None
            training = train_locally(
                net,
                samples,
                steps=left,
                last_epoch=min(left, steps_per_epoch(needed, batch_size)),
                schedule="constant",
                config=config,
                loss=loss,
                head=head,
                single_samples=min(needed, batch_size) == 1,
                after_step=tick,
                after_backward=None if watched is None else watched.after_backward,
                enough=None if watched is None else _asked(watched, net),
            )
            passes, taken = passes + training.passes, taken + training.steps
            if net is model:
                on_given_net = passes
            if not all_finite(tensor_state(net)):
                raise ValueError(
                    f"the common start diverged within {steps} steps: lower lr (received "
                    f"{config.lr:g})"
                )
            if watched is not None:
                drawn, net = watched.replace(net, taken)
    return CommonStart(passes, on_given_net, drawn, tensor_state(net))


def _asked(hook: StepHook, net: nn.Module) -> Callable[[int], bool]:
    return lambda taken: hook.enough(net, taken)


def common_samples(config: WarmStartConfig, labels: Tensor) -> Tensor:
    """The samples that the common start trains on, ascending; all of them, or as many as it needs.

    Args:
        config: ``common_steps``, ``batch_size`` and the seed.
        labels: of the training set, shape (N,).
    """
    needed = min(len(labels), config.common_steps * config.batch_size)
    return _order_of(labels, config.seed, 0)[:needed].sort().values


def _order_of(labels: Tensor, seed: int, epoch: int) -> Tensor:
    return balanced_order(labels, generator(seed, "common", epoch))
