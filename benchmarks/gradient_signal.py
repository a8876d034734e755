"""How good a model's gradient signal is: against models that were trained long, on all data.

What a selector reads of a model are its losses and last-layer gradients on the pool. So a warm-up
is as good as a long one if it ranks the pool's samples alike and its class gradients point alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipt_cords.base.randomness import generator
from lipt_cords.data import BatchSource, load_dataset
from lipt_cords.models import build_model
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.training.optimizers import OPTIMIZERS, OptimizerOptions
from lipt_cords.training.schedules import Schedule, rate_factor
from lipt_cords.warmstart.merge.batchnorm import refresh_batchnorm
from lipt_cords.warmstart.watch.probe import class_mean_gradients
from lipt_cords.warmstart.watch.stability import spearman

LAYOUT = torch.channels_last
MEASURED, HELD_OUT, PROBE = 5000, 2500, 1000
"""Samples of the pool and of held-out data for the signal, and held-out ones for the warm start."""


@dataclass(frozen=True)
class Task:
    """A data set divided: the pool, and held-out parts that no warm-up sees.

    Attributes:
        pool: (x, y) of the training pool, float32, on the CPU.
        held_out: (x, y) for the signal.
        probe: a data set for the warm start's own use.
    """

    pool: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    probe: torch.utils.data.TensorDataset
    channels: int
    size: int

    @property
    def train(self) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(*self.pool)

    def model(self, seed: int) -> nn.Module:
        return build_model(
            "resnet8", 10, in_channels=self.channels, image_size=self.size, seed=seed
        )


def load_task(name: str, datadir: str | None, pool: int) -> Task:
    """Balanced, disjoint parts of a training set."""
    wanted = pool + HELD_OUT + PROBE
    splits = load_dataset(name, datadir, limit=wanted, val_fraction=(HELD_OUT + PROBE) / wanted)
    train, val = (_tensors(part) for part in (splits.train, splits.val))
    rest = tuple(values[PROBE:] for values in val)
    probe = torch.utils.data.TensorDataset(*(values[:PROBE] for values in val))
    return Task(train, rest, probe, splits.input_shape[0], splits.input_shape[-1])


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(dataset), generator=generator(0, "order"))
    batches = list(BatchSource(dataset, order).batches(batch_size=4096))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def train_plainly(
    model: nn.Module,
    task: Task,
    *,
    batch: int,
    lr: float,
    passes: int,
    schedule: Schedule,
    seed: int,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    at: Sequence[int] = (),
    tell: Callable[[int, nn.Module], None] = lambda passes, model: None,
) -> nn.Module:
    """Train on the whole pool: a full-data warm-up; with a large batch, data-parallel training.

    Args:
        model: trained in place, bfloat16 autocast, channels_last.
        task: its pool.
        batch: samples in a step.
        lr: peak rate; with a schedule that falls it is reached after 20 steps.
        passes: samples to train on.
        schedule: ``constant``, ``cosine``, ``linear`` or ``wsd``.
        seed: of the order.
        optimizer: ``sgd``, or ``muon`` with the rate ``lr`` for hidden matrices.
        momentum: of both, Nesterov's.
        at: passes at which to tell, beside the end.
        tell: called with the passes so far and the model.
    """
    model.to(memory_format=LAYOUT).train()
    images, labels = task.pool[0].contiguous(memory_format=LAYOUT), task.pool[1]
    options = OptimizerOptions(
        lr=lr, momentum=momentum, nesterov=True, fused=True, precision=torch.bfloat16,
        weight_decay=5e-4 if optimizer == "sgd" else 0.0,
        matrices=tuple(hidden_matrices(model)),
    )  # fmt: skip
    steps_of = OPTIMIZERS[optimizer](list(model.parameters()), options)
    peaks = [group["lr"] for group in steps_of.param_groups]
    order, draws = torch.empty(0, dtype=torch.int64), generator(seed, "plain")
    steps, waiting = max(1, passes // batch), sorted(at)
    for step in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(labels), generator=draws)])
        chosen, order = order[:batch], order[batch:]
        if schedule != "constant":
            factor = min(1, (step + 1) / 20) * rate_factor(schedule, step, steps)
            for group, peak in zip(steps_of.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images[chosen])
        loss = F.cross_entropy(logits.float(), labels[chosen])
        steps_of.zero_grad()
        loss.backward()
        steps_of.step()
        while waiting and (step + 1) * batch >= waiting[0]:
            tell(waiting.pop(0), model)
            model.train()
    tell(steps * batch, model)
    return model


@dataclass(frozen=True)
class Signal:
    """Losses and class gradients on the pool and on held-out data."""

    pool_losses: Tensor
    pool_gradients: Tensor
    held_out_losses: Tensor
    held_out_gradients: Tensor
    accuracy: float


def signal_of(model: nn.Module, task: Task) -> Signal:
    """Read a model, in eval mode, as a selector would."""
    model = copy.deepcopy(model).to(memory_format=LAYOUT)
    read, accuracy = [], 0.0
    chosen = torch.randperm(len(task.pool[1]), generator=generator(0, "measured"))[:MEASURED]
    for images, labels in (tuple(part[chosen] for part in task.pool), task.held_out):
        data = torch.utils.data.TensorDataset(images.contiguous(memory_format=LAYOUT), labels)
        found = last_layer_gradients(model, data)
        read.append(F.cross_entropy(found.logits, found.labels, reduction="none"))
        read.append(class_mean_gradients(found.logit_grads, found.embeddings, found.labels))
        accuracy = float(found.correct().double().mean())
    return Signal(*read, accuracy)


def refreshed(model: nn.Module, task: Task) -> nn.Module:
    """A copy whose BatchNorm statistics are recomputed on some of the pool."""
    model = copy.deepcopy(model).to(memory_format=LAYOUT)
    refresh_batchnorm(model, BatchSource(task.train, torch.arange(2048)))
    return model


def quality(signal: Signal, references: Sequence[Signal]) -> dict[str, float]:
    """How near a signal is to those of long warm-ups, on average over these."""

    def mean(measure: Callable[[Signal], float]) -> float:
        return sum(map(measure, references)) / len(references)

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(F.cosine_similarity(one.double(), other.double(), dim=1).mean())

    return {
        "pool_rank_correlation": mean(lambda r: spearman(signal.pool_losses, r.pool_losses)),
        "held_out_rank_correlation": mean(
            lambda r: spearman(signal.held_out_losses, r.held_out_losses)
        ),
        "pool_class_cosine": mean(lambda r: cosine(signal.pool_gradients, r.pool_gradients)),
        "held_out_class_cosine": mean(
            lambda r: cosine(signal.held_out_gradients, r.held_out_gradients)
        ),
        "held_out_loss": float(signal.held_out_losses.double().mean()),
        "held_out_accuracy": signal.accuracy,
    }
