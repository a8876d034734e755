"""Optimizers and learning-rate schedules by CORDS's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    MultiStepLR,
    StepLR,
)

from lipt_cords.base.options import Section


class OptimizerConfig(Section):
    """How steps are taken."""

    section: ClassVar[str] = "optimizer"

    type: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    """The optimizer."""
    lr: float = Field(0.05, gt=0)
    """Peak learning rate; also GLISTER's eta unless ``dss_args.eta`` is given, as in CORDS."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 decay."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""


class SchedulerConfig(Section):
    """How the learning rate moves, stepped once an epoch as in CORDS."""

    section: ClassVar[str] = "scheduler"

    type: Literal[
        "cosine_annealing", "cosine_annealing_WS", "linear_decay", "multistep", "none"
    ] = "cosine_annealing"
    """``linear_decay`` is CORDS's name for a decay by ``gamma`` every ``stepsize`` epochs."""
    T_max: int | None = Field(None, ge=1)
    """Epochs of half a cosine; None: the whole run."""
    T_0: int = Field(10, ge=1)
    """Epochs until the first warm restart."""
    T_mult: int = Field(1, ge=1)
    """Growth of that period."""
    stepsize: int = Field(20, ge=1)
    """Epochs between two decays."""
    gamma: float = Field(0.1, gt=0)
    """Factor of a decay."""
    milestones: tuple[int, ...] = ()
    """Epochs at which ``multistep`` decays."""
    over: Literal["run", "subset"] = "run"
    """Epochs that move the rate: all of them as in CORDS, or those on a subset alone, so that a
    full-data warm-up runs at the peak rate (not a key of CORDS)."""

    @field_validator("type", mode="before")
    @classmethod
    def _none_by_name(cls, value: Any) -> Any:
        return "none" if value is None else value


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """The optimizer of a configuration over some parameters."""
    lr, decay = config.lr, config.weight_decay
    builders: dict[str, Callable[[], Optimizer]] = {
        "sgd": lambda: SGD(
            parameters,
            lr=lr,
            momentum=config.momentum,
            weight_decay=decay,
            nesterov=config.nesterov and config.momentum > 0,
        ),
        "adam": lambda: Adam(parameters, lr=lr, weight_decay=decay),
        "adamw": lambda: AdamW(parameters, lr=lr, weight_decay=decay),
        "rmsprop": lambda: RMSprop(parameters, lr=lr, weight_decay=decay),
    }
    return builders[config.type]()


def build_scheduler(
    optimizer: Optimizer, config: SchedulerConfig, *, epochs: int
) -> LRScheduler | None:
    """The schedule of a configuration, to be stepped once an epoch.

    Args:
        optimizer: whose learning rate moves.
        config: CORDS's ``scheduler`` section. ``cosine_annealing`` without ``T_max`` ends with
            the run.
        epochs: epochs in which the schedule is stepped.

    Returns:
        The scheduler, or None for a constant rate.
    """
    builders: dict[str, Callable[[], LRScheduler | None]] = {
        "cosine_annealing": lambda: CosineAnnealingLR(optimizer, T_max=config.T_max or epochs),
        "cosine_annealing_WS": lambda: CosineAnnealingWarmRestarts(
            optimizer, T_0=config.T_0, T_mult=config.T_mult
        ),
        "linear_decay": lambda: StepLR(optimizer, step_size=config.stepsize, gamma=config.gamma),
        "multistep": lambda: MultiStepLR(
            optimizer, milestones=list(config.milestones), gamma=config.gamma
        ),
        "none": lambda: None,
    }
    return builders[config.type]()
