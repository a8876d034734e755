"""What a result keeps of its fit, so that some workers can be retrained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.messages import travels
from lipt_cords.data.collated import CollateFunction, apart
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import State
from lipt_cords.selectors.dynamics import TrainingDynamics
from lipt_cords.training.cheaper.tickets import Ticket
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.report import WarmStartReport


@dataclass(frozen=True)
class Origins:
    """What a warm start was fitted on: needed to retrain some of its workers."""

    dataset: Dataset[Any]
    val_dataset: Dataset[Any] | None
    loss: LossFunction | None

    @property
    def collate_fn(self) -> CollateFunction | None:
        """The function that made batches, or None."""
        return apart(self.dataset)[1]


@travels
@dataclass(frozen=True)
class Unlearning:
    """The cost of a change of the samples, and what it does not cover.

    Attributes:
        retrained: workers that were trained again.
        passes: samples that they trained on, repeats counted.
        redo_passes: what a whole warm start on the changed shards would train on.
        uncovered: where removed samples still have an influence, in words; empty if nowhere. A
            subset that was selected with the earlier weights is not updated: select again.
    """

    retrained: list[int]
    passes: int
    redo_passes: int
    uncovered: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Passes over those of a whole new warm start."""
        return self.passes / self.redo_passes


class Fitted(Protocol):
    """What a change of the samples needs of a result; see :class:`WarmStartResult`."""

    theta_star: State
    config: WarmStartConfig
    report: WarmStartReport
    shards: list[Tensor]
    worker_states: list[State | None] | None
    logged: TrainingDynamics | None
    ticket: Ticket | None
    forgotten: list[int]
    origins: Origins | None
    template: nn.Module | None

    def model(self) -> nn.Module:
        """A new copy of the fitted module with the merged weights."""

    def ticket_model(self) -> nn.Module:
        """A new copy of the smaller net."""


@dataclass(frozen=True)
class Changed:
    """What a change of the samples makes of a result, by the names of its attributes."""

    state_dict: State
    shards: list[Tensor]
    worker_states: list[State | None]
    logged: TrainingDynamics | None
    report: WarmStartReport
    forgotten: list[int]
    unlearning: Unlearning
