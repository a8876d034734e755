"""Optimizers and learning-rate schedules by CORDS's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    MultiStepLR,
    StepLR,
)

from lipt_cords.run_sections import OptimizerConfig, SchedulerConfig


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
