"""What a fit leaves behind so that some of its workers can be trained again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import State
from lipt_cords.training.cheaper.tickets import Ticket
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.report import WarmStartReport


@dataclass(frozen=True)
class Origins:
    """What a warm start was fitted on: needed to train some of its workers again."""

    dataset: Dataset[Any]
    val_dataset: Dataset[Any] | None
    loss: LossFunction | None


@dataclass(frozen=True)
class Unlearning:
    """What a change of the samples cost, and what it does not reach.

    Attributes:
        retrained: workers that trained again.
        passes: samples that they trained on, repeats counted.
        redo_passes: what a whole warm start on the changed shards would train on.
        uncovered: where removed samples have left traces all the same, in words; empty if nowhere.
            A subset that was selected with the earlier weights is not known here: select again.
    """

    retrained: list[int]
    passes: int
    redo_passes: int
    uncovered: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Passes over those of doing it all again."""
        return self.passes / self.redo_passes


class Fitted(Protocol):
    """What a change of the samples needs of a result; see :class:`WarmStartResult`."""

    theta_star: State
    config: WarmStartConfig
    report: WarmStartReport
    shards: list[Tensor]
    worker_states: list[State | None] | None
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
    report: WarmStartReport
    forgotten: list[int]
    unlearning: Unlearning
