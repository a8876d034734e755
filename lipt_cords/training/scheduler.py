"""The learning rate of a training: CORDS's schedules, and those of the workers of a warm start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    MultiStepLR,
    StepLR,
)

from lipt_cords.base.options import ConfigSection
from lipt_cords.training.optimizers import CORDS_SCHEDULE, OPTIMIZERS
from lipt_cords.training.schedules import EVERY_STEP, Schedule, rate_factor

OPTIONS: dict[str, tuple[str, ...]] = {
    "cosine_annealing": ("T_max",),
    "cosine_annealing_WS": ("T_0", "T_mult"),
    "linear_decay": ("stepsize", "gamma"),
    "multistep": ("milestones", "gamma"),
}
"""The options of each type of CORDS; the others have none."""


class SchedulerConfig(ConfigSection):
    """The learning rate schedule.

    CORDS's schedules are stepped once per epoch, as in CORDS, so the last of a few epochs still has
    a high rate. ``cosine``, ``linear`` and ``wsd`` move the rate at every step, down to zero.
    """

    section: ClassVar[str] = "scheduler"

    type: Literal[
        "auto", "cosine_annealing", "cosine_annealing_WS", "linear_decay", "multistep", "none",
        "cosine", "linear", "wsd",
    ] = "auto"  # fmt: skip
    """``auto`` is ``wsd`` with ``muon``, and with the others CORDS's ``cosine_annealing``, as it is
    where ``T_max`` is given; ``linear_decay`` is CORDS's name for a decay by ``gamma`` every
    ``stepsize`` epochs; ``wsd`` holds the rate, and falls linearly over the last quarter."""
    T_max: int | None = Field(None, ge=1)
    """Epochs of half a cosine of ``cosine_annealing``; None: the whole run."""
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
    """Epochs that move the schedule: all of them as in CORDS, or only those on a subset, so that a
    full-data warm-up runs at the peak rate (not a key of CORDS)."""

    @field_validator("type", mode="before")
    @classmethod
    def _none_by_name(cls, value: Any) -> Any:
        return "none" if value is None else value

    @model_validator(mode="after")
    def _options_of_the_type(self) -> SchedulerConfig:
        """Files of CORDS hold options of several types; a type that is not CORDS's has none."""
        if self.type == "multistep" and not self.milestones:
            raise ValueError("multistep decays at milestones, and none is given: give milestones")
        if self.type in OPTIONS or self.type == "none":
            return self
        read = OPTIONS[CORDS_SCHEDULE] if self.type == "auto" else ()
        given = self.model_dump(exclude_defaults=True).keys() - {"type", "over", *read}
        for kind, names in OPTIONS.items():
            if some := [name for name in names if name in given]:
                raise ValueError(
                    f"{some[0]} is an option of {kind}, and the type is {self.type}: leave it out, "
                    f"or set the type to {kind}"
                )
        return self

    def told(self) -> str | dict[str, Any]:
        """The type, with the options that are set, if any."""
        options = self.model_dump(mode="json", exclude={"type", "over"}, exclude_defaults=True)
        return {"type": self.type, **options} if options else self.type

    def over_epochs(self, share: float) -> SchedulerConfig:
        """The same over a training of another length: what counts epochs is scaled.

        Args:
            share: epochs of the other training over those of this one.

        >>> SchedulerConfig(type="multistep", milestones=(50, 75)).over_epochs(0.1).milestones
        (5, 8)
        """

        def scaled(epochs: Any) -> Any:
            if isinstance(epochs, tuple):
                return tuple(scaled(one) for one in epochs)
            return None if epochs is None else max(1, round(share * epochs))

        counted = [one for one in OPTIONS.get(self.type, ()) if one not in ("T_mult", "gamma")]
        return self.model_copy(update={one: scaled(getattr(self, one)) for one in counted})

    def chosen(self, optimizer: str) -> str:
        """The type, and in place of ``auto`` what fits an optimizer of that name.

        >>> SchedulerConfig().chosen("muon"), SchedulerConfig().chosen("sgd")
        ('wsd', 'cosine_annealing')
        """
        if self.type != "auto":
            return self.type
        own = OPTIMIZERS.entry(optimizer).facts["schedule"]
        return CORDS_SCHEDULE if self.T_max is not None else str(own)


def at_every_step(config: SchedulerConfig, optimizer: str) -> SchedulerConfig:
    """A schedule for trainings of any number of epochs, as the optimizer of that name wants it.

    In place of CORDS's cosine over all epochs it is the one that moves at every step: stepped once
    per epoch, it would leave few long epochs at a high rate.
    """
    kind = config.chosen(optimizer)
    if kind == CORDS_SCHEDULE and config.T_max is None:
        return SchedulerConfig(type="cosine", over=config.over)
    return config.model_copy(update={"type": kind})


class EveryStep:
    """A schedule that moves the rate at every step; it reaches zero after the last one.

    ``wsd`` falls over the last quarter of the epochs.

    Args:
        optimizer: the learning rates of its groups are changed in proportion.
        schedule: ``cosine``, ``linear`` or ``wsd``.
        epochs: of the whole schedule.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> schedule, rates = EveryStep(optimizer, "wsd", 2), []
    >>> for epoch in range(2):
    ...     for part in (0.0, 0.25, 0.5, 0.75):
    ...         schedule.move(part)
    ...         rates.append(optimizer.param_groups[0]["lr"])
    ...     schedule.step()
    >>> rates
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, epochs: int) -> None:
        self._optimizer, self._schedule, self._epochs = optimizer, schedule, epochs
        self._epoch = 0
        for group in optimizer.param_groups:
            group["initial_lr"] = float(group["lr"])

    def move(self, part: float) -> None:
        """Set the rate of the next step.

        Args:
            part: of the epoch that is behind, from 0 up to 1.
        """
        decay = (0.75 * self._epochs, float(self._epochs))
        factor = rate_factor(self._schedule, self._epoch + part, self._epochs, decay)
        for group in self._optimizer.param_groups:
            rate = group["initial_lr"] * factor
            if isinstance(group["lr"], Tensor):  # a compiled step reads this very tensor
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self) -> None:
        """An epoch is over."""
        self._epoch += 1
        self.move(0.0)

    def state_dict(self) -> dict[str, Any]:
        """How many epochs are over; the rates are the optimizer's."""
        return {"epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of an equal schedule."""
        self._epoch = state["epoch"]


def build_scheduler(
    optimizer: Optimizer, config: SchedulerConfig, *, name: str, epochs: int
) -> LRScheduler | EveryStep | None:
    """The schedule of a configuration.

    Args:
        optimizer: its learning rate is changed.
        config: CORDS's ``scheduler`` section. ``cosine_annealing`` without ``T_max`` ends with
            the run.
        name: of the optimizer.
        epochs: epochs that move the schedule.

    Returns:
        The schedule, or None for a constant rate.
    """
    kind = config.chosen(name)
    if kind in EVERY_STEP:
        return EveryStep(optimizer, cast(Schedule, kind), epochs)
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
    return builders[kind]()
