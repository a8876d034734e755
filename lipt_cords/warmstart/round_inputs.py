"""What goes into the rounds of a warm start, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.data.source import BatchSource
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import State
from lipt_cords.training.cheaper.tickets import Ticket
from lipt_cords.warmstart.plan import Plan
from lipt_cords.warmstart.report import OnRound, WarmStartReport
from lipt_cords.warmstart.watch.probe import Probe
from lipt_cords.warmstart.workers.batches import Pool


@dataclass(frozen=True)
class Material:
    """What the rounds work on, checked and read.

    Attributes:
        model: scratch on the device; its weights are the given ones.
        dataset: the training set.
        labels: its labels; empty on ranks other than 0.
        plan: head and shards.
        loss: mean loss of (logits, labels).
        pool: this rank's samples in memory.
        validation: held-out data, or None.
        probe: the part of it on which workers are compared, or None.
        flops: of one sample in a training step of the given net.
        forward_flops: of one sample in a forward pass of ``model``.
        block_shares: with ``subnetwork``, each block's share of the former.
        net_work: operations of ``model`` over those of the given net: below 1 with a ticket.
        on_round: told on rank 0 of every merge, or None.
    """

    model: nn.Module
    dataset: Dataset[Any]
    labels: Tensor
    plan: Plan
    loss: LossFunction
    pool: Pool | None
    validation: BatchSource | None
    probe: Probe | None
    flops: int
    forward_flops: int
    block_shares: tuple[float, ...] = ()
    net_work: float = 1.0
    on_round: OnRound | None = None


@dataclass(frozen=True)
class Outcome:
    """What the rounds leave behind, on the CPU; states are the given net's."""

    merged: State
    theta_star: State
    report: WarmStartReport
    worker_states: list[State | None] | None
    ticket: Ticket | None = None
