"""The training loop of all methods: weighted loss, schedule, evaluation, resume.

One loop for full data, subsets of CORDS and our own subsets, so that methods differ only in the
data that they read. The loss of a batch is sum(w l) / sum(w), as in CORDS's own loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lipt_cords.base.devices import synchronize, widest_float
from lipt_cords.base.randomness import preserved_rng
from lipt_cords.data.batches import Inputs, flat_labels, split_batch, to_device
from lipt_cords.data.source import BatchSource
from lipt_cords.models.heads import model_device
from lipt_cords.models.logits_alone import return_everything, return_logits_alone
from lipt_cords.models.losses import PerSampleLoss
from lipt_cords.models.modes import train_as_given
from lipt_cords.training.cheaper.steps import CheaperSteps
from lipt_cords.training.cheaper.tickets import ticket_notes
from lipt_cords.training.checkpoint import (
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from lipt_cords.training.evaluation import accuracy
from lipt_cords.training.ledger import FULL, SKIPPED, SUBSET, CurvePoint, Ledger
from lipt_cords.training.memory.report import MemoryReport
from lipt_cords.training.scheduler import EveryStep
from lipt_cords.training.sources import Epoch, EpochSource
from lipt_cords.training.step import MemoryFormat, Precision, Step, weighted_loss
from lipt_cords.training.subset_history import SubsetHistory


@dataclass
class CheckpointPlan:
    """Where and how often a run is saved, and its identity."""

    path: Path
    identity: dict[str, Any]
    """Settings that a resumed run must share."""
    every: int = 1
    """Epochs between two checkpoints; the last epoch is always saved."""
    afresh: str = "delete it and run again without resume=True"
    """What to do about a damaged checkpoint."""

    def load(self) -> dict[str, Any]:
        """Read the checkpoint back; a ValueError names its fault."""
        if not self.path.exists():
            raise ValueError(
                f"there is no checkpoint to resume in {self.path.parent}: leave resume "
                "(--resume) out to start a new run"
            )
        return load_checkpoint(self.path, identity=self.identity, remedy=self.afresh)


@dataclass
class TrainingResult:
    """The result of a training: the curve and its costs. The model was trained in place."""

    curve: list[CurvePoint] = field(default_factory=list)
    costs: Ledger = field(default_factory=Ledger)
    work: float = 1.0
    """Operations of its steps over those of the given net; below 1 with ``subnetwork`` and
    ``early_bird``."""
    ticket: dict[str, Any] | None = None
    """With ``early_bird``, the report of the ticket: ``share_kept`` of the channels, ``work`` of
    its net, ``steps`` after which it was drawn, whether its masks had ``settled``."""
    ticket_net: nn.Module | None = None
    """With ``early_bird``, the smaller net that was trained."""
    memory: MemoryReport | None = None
    """With ``memory_budget``, the plan and the costs of the last step."""
    notes: list[str] = field(default_factory=list)
    """Warnings for the reader, such as a ticket that was drawn before its masks had settled."""

    @property
    def val_accuracy(self) -> float | None:
        """Held-out accuracy after the last epoch."""
        return self.curve[-1].val_accuracy if self.curve else None

    @property
    def test_accuracy(self) -> float | None:
        """Test accuracy after the last epoch."""
        return self.curve[-1].test_accuracy if self.curve else None


class Trainer:
    """Trains a model on a source, epoch by epoch.

    Args:
        model: trained in place, on the device where its weights are.
        source: of the epochs.
        optimizer: over the model's parameters.
        scheduler: stepped once per epoch, and moved at every step where it can be; or None.
        loss: per-sample loss of (logits, labels), shape (B,).
        evaluation: data sets by name (``val``, ``test``) on which accuracy is measured.
        schedule_over: ``run`` steps the schedule in every epoch as CORDS does, ``subset`` only in
            those on a subset.
        eval_every: epochs between two evaluations; the last epoch always is one.
        precision: ``bf16`` autocast of the forward pass, ``fp32``, or ``auto``: bf16 on a GPU
            that has it. Losses, steps and evaluation are in full precision.
        memory_format: layout of images and convolutions; ``auto`` is channels_last where it is
            safe.
        cheaper: cheaper steps, or None; call ``run`` inside its ``applied``.
        memory: (bytes that a step may take, bytes a second to the host or None), or None.
    """

    def __init__(
        self,
        model: nn.Module,
        source: EpochSource,
        optimizer: Optimizer,
        scheduler: LRScheduler | EveryStep | None,
        *,
        loss: PerSampleLoss,
        evaluation: Mapping[str, BatchSource] | None = None,
        schedule_over: str = "run",
        eval_every: int = 1,
        precision: Precision = "fp32",
        memory_format: MemoryFormat = "auto",
        cheaper: CheaperSteps | None = None,
        memory: tuple[int, float | None] | None = None,
    ) -> None:
        self.model, self.source = model, source
        self.optimizer, self.scheduler = optimizer, scheduler
        self.evaluation = dict(evaluation or {})
        self.schedule_over = schedule_over
        self.eval_every = eval_every
        self.device = model_device(model)
        self._loss = loss
        self._new_step = partial(
            Step, precision=precision, memory_format=memory_format, memory=memory
        )
        self._step = self._new_step(model, optimizer)
        self.cheaper = cheaper
        self.result = TrainingResult()
        self.extra: dict[str, Any] = {}
        """Plain values that are stored in the checkpoint: what was done before the first epoch."""
        self.subsets = SubsetHistory()
        """The subsets of the epochs."""
        self.epoch = 0

    def run(
        self,
        epochs: int,
        *,
        plan: CheckpointPlan | None = None,
        on_point: Callable[[CurvePoint], None] | None = None,
    ) -> TrainingResult:
        """Train up to ``epochs`` in total; call it inside ``isolated_rng``.

        Raises:
            ValueError: training diverges, or the net returns several tensors and it is not clear
                which are the logits.
        """
        given = self.model
        return_logits_alone(given)
        try:
            return self._run(epochs, plan, on_point)
        finally:
            for net in (given, self.model):  # a ticket's net is a copy
                return_everything(net)

    def _run(
        self,
        epochs: int,
        plan: CheckpointPlan | None,
        on_point: Callable[[CurvePoint], None] | None,
    ) -> TrainingResult:
        if self.epoch == 0:
            self._add_point("start", None, on_point)
        while self.epoch < epochs:
            kind, loss = self._train_epoch()
            if self.scheduler is not None and self._is_scheduled(kind):
                self.scheduler.step()
            self.epoch += 1
            last = self.epoch == epochs
            if last or (kind != SKIPPED and self.epoch % self.eval_every == 0):
                self._add_point(kind, loss, on_point)
            if plan is not None and (last or self.epoch % plan.every == 0):
                save_checkpoint(plan.path, self.state_dict(), identity=plan.identity)
        if self.cheaper is not None:
            ticket, net = self.cheaper.ticket_report(), self.cheaper.net
            self.result.work, self.result.ticket = self.cheaper.work, ticket
            self.result.ticket_net = None if ticket is None else net
            self.result.notes = ticket_notes(ticket)
        if self._step.planner is not None:
            self.result.memory = self._step.planner.report()
            self.result.notes += [self.result.memory.summary(), *self.result.memory.notes]
        return self.result

    def first_subset(self, epoch: int) -> Epoch:
        """Train up to an epoch, counted from 0, and open it: the batches that would come next.

        Call it inside ``isolated_rng``.
        """
        if epoch > 0:
            self.run(epoch)
        return_logits_alone(self.model)
        try:
            return self._open()
        finally:
            return_everything(self.model)

    def _open(self) -> Epoch:
        train_as_given(self.model)
        return self.source.open(self.epoch)

    def state_dict(self) -> dict[str, Any]:
        """All that decides the following epochs, and the records so far."""
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "source": self.source.state_dict(),
            "random": random_states(),
            "costs": asdict(self.result.costs),
            "curve": [asdict(point) for point in self.result.curve],
            "subsets": self.subsets.state_dict(),
            "extra": self.extra,
            "cheaper": None if self.cheaper is None else self.cheaper.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; the random states are set last, inside ``isolated_rng``."""
        if self.cheaper is not None and state.get("cheaper") is not None:
            self.cheaper.load_state_dict(state["cheaper"])
            if self.cheaper.net is not self.model:
                self._switch_net(self.cheaper)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.source.load_state_dict(state["source"])
        self.result = TrainingResult(
            [CurvePoint(**point) for point in state["curve"]], Ledger(**state["costs"])
        )
        self.subsets = SubsetHistory.from_state(state["subsets"])
        self.extra = dict(state["extra"])
        self.epoch = state["epoch"]
        restore_random_states(state["random"])

    def _train_epoch(self) -> tuple[str, float | None]:
        started = self._clock()
        opened = self._open()
        total, passes = torch.zeros((), device=self.device, dtype=widest_float(self.device)), 0
        moved = self.scheduler if self._is_scheduled(opened.kind) else None
        for number, batch in enumerate(opened.batches):
            if isinstance(moved, EveryStep):
                moved.move(number / opened.steps)
            inputs, labels, weights = split_weighted(batch)
            loss = self._take_step(inputs, labels, weights)
            total += loss * len(labels)
            passes += len(labels)
        seconds = self._clock() - started - opened.selection_seconds
        costs = self.result.costs
        costs.selection_seconds += opened.selection_seconds
        costs.selections += opened.selections
        costs.selection_passes += opened.selection_passes
        costs.gradient_seconds += opened.gradient_seconds
        if opened.chosen is not None:
            self.subsets.add(
                self.epoch,
                opened.chosen.indices,
                opened.chosen.weights,
                opened.accuracies,
                opened.chosen.info.get("cut"),
                opened.chosen.scores,
            )
        if opened.kind == FULL:
            costs.warmup_passes += passes
            costs.warmup_critical_passes += passes
            costs.warmup_seconds += seconds
            costs.warmup_critical_seconds += seconds
        else:
            costs.training_passes += passes
            costs.training_seconds += seconds
        if passes == 0:
            return opened.kind, None
        mean = float(total) / passes
        if mean != mean or mean in (float("inf"), float("-inf")):
            raise ValueError(
                f"training diverged: the loss of epoch {self.epoch} is {mean}; lower optimizer.lr, "
                "and check the inputs for NaN"
            )
        return opened.kind, mean

    def _is_scheduled(self, kind: str) -> bool:
        """Whether an epoch of a kind moves the schedule."""
        return kind == SUBSET or self.schedule_over == "run"

    def _take_step(self, inputs: Inputs, labels: Tensor, weights: Tensor) -> Tensor:
        cheaper = self.cheaper
        labels = labels.to(self.device, non_blocking=True)
        weights = weights.to(self.device, torch.float32, non_blocking=True)
        inputs = to_device(inputs, self.device)
        loss = weighted_loss(self._loss, labels, weights)
        if cheaper is None:
            return self._step(inputs, loss)
        cheaper.before_step(len(labels))
        value = self._step(inputs, loss, cheaper.after_backward)
        if cheaper.after_step():
            self._switch_net(cheaper)
        return value

    def _switch_net(self, cheaper: CheaperSteps) -> None:
        """Continue with a smaller net."""
        cheaper.move_momentum(self.optimizer, self.model)
        self.model = cheaper.net
        self._step = self._new_step(self.model, self.optimizer)

    def _add_point(
        self, phase: str, loss: float | None, on_point: Callable[[CurvePoint], None] | None
    ) -> None:
        started = self._clock()
        if self.cheaper is not None:
            self.cheaper.before_evaluation()
        with preserved_rng():
            measured = {name: accuracy(self.model, data) for name, data in self.evaluation.items()}
        self.result.costs.evaluation_seconds += self._clock() - started
        point = CurvePoint.of(
            self.result.costs,
            epoch=self.epoch,
            phase=phase,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            train_loss=loss,
            accuracy=measured,
        )
        self.result.curve.append(point)
        if on_point is not None:
            with nullcontext() if self.cheaper is None else self.cheaper.given_net_updated():
                on_point(point)

    def _clock(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def split_weighted(batch: Any) -> tuple[Inputs, Tensor, Tensor]:
    """Split a weighted batch into inputs, labels and weights.

    Args:
        batch: ``(x, y, w)``, or ``(x, y, ..., w)``, of which the rest is dropped; or a dict with
            ``labels`` and ``weights``. Labels are one integer a sample; targets that are no
            integers stay as they are, for losses that take them.

    Raises:
        ValueError: anything else.

    >>> x, y, w = split_weighted((torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2)))
    >>> y.tolist(), w.tolist()
    ([0, 1], [1.0, 1.0])
    """
    if isinstance(batch, Mapping) and "weights" in batch:
        weights = batch["weights"]
        inputs, labels = split_batch({k: v for k, v in batch.items() if k != "weights"})
    elif isinstance(batch, tuple | list) and len(batch) >= 3 and isinstance(batch[-1], Tensor):
        inputs, labels = split_batch(batch)
        weights = batch[-1]
    else:
        raise ValueError(
            "expected weighted batches (x, y, w) or dicts with 'labels' and 'weights', received "
            f"{type(batch).__name__}: read the subset through SubsetLoader or a CORDS loader"
        )
    if not labels.is_floating_point():
        labels = flat_labels(labels)
    return inputs, labels, weights
