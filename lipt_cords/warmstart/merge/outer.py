"""The outer step: LiPT takes the average as it is, DiLoCo takes a step along the change."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from lipt_cords.base.options import StrictModel
from lipt_cords.base.registry import Registry, is_foreign
from lipt_cords.models.state import State, copied_state, require_alike_state

OuterFunction = Callable[..., State]
OUTER_STEPS: Registry[OuterFunction] = Registry(
    "outer step", takes=("start", "average", "memory", "*", "trained", "config")
)


def register_outer(name: str) -> Callable[[OuterFunction], OuterFunction]:
    """Register an outer step under a name.

    The function takes the weights that a round started from, the average of its workers, and a dict
    for its own state: tensors under the names of the state's entries and in their shapes, which is
    stored with a merge. By keyword it gets ``trained``, the names of the trained entries, and the
    options as ``config``. It returns the start of the next round, on the CPU. All ranks compute it,
    so it must draw no random numbers.

    Args:
        name: must be free.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    return OUTER_STEPS.register(name)


class OuterOptions(StrictModel):
    """The outer step after a merge."""

    outer: str = "nesterov"
    """The outer step after a merge: ``average`` takes the averaged weights, ``nesterov`` takes a
    step along the averaged change (DiLoCo); or a registered outer step of your own."""
    outer_lr: float = Field(1.0, gt=0)
    """Learning rate of the outer Nesterov step."""
    outer_momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the outer Nesterov step."""

    @field_validator("outer")
    @classmethod
    def _known_outer(cls, value: str) -> str:
        return OUTER_STEPS.entry(value).name

    @model_validator(mode="after")
    def _outer_is_used(self) -> OuterOptions:
        for name in ("outer_lr", "outer_momentum"):
            unused = self.outer == "average"
            if unused and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} does nothing with outer={self.outer!r}: set outer='nesterov', or "
                    "leave it out"
                )
        return self


def next_start(
    start: State,
    average: State,
    memory: State,
    *,
    trained: Collection[str],
    frozen: Collection[str] = (),
    config: OuterOptions,
) -> State:
    """The start of the next round, by the configured outer step.

    Args:
        start: of this round.
        average: of its workers.
        memory: of the outer step; filled in place.
        trained: names of the trained entries. Buffers, such as BatchNorm statistics, and integer
            entries are averaged with every outer step.
        frozen: names of the entries that never change; they are those of the start.
        config: the options.

    Raises:
        ValueError: the outer step returns other names, shapes or dtypes than the average's.
    """
    given, entry = start, OUTER_STEPS.entry(config.outer)
    if is_foreign(entry.module):  # which may write into what it is given
        start, average = copied_state(start), copied_state(average)
    made = entry.make(start, average, memory, trained=trained, config=config)
    require_alike_state(made, average, f"outer step {config.outer!r}")
    for name, value in memory.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"outer step {config.outer!r} keeps a {type(value).__name__} as {name!r} in its "
                "memory: expected tensors, which can be stored"
            )
    # Whatever a registered codec or outer step made of them.
    return made | {name: given[name].cpu() for name in frozen if name in given}


@register_outer("average")
def average_of_workers(
    start: State,
    average: State,
    memory: State,
    *,
    trained: Collection[str],
    config: OuterOptions,
) -> State:
    """The average as it is (Stich, Local SGD converges fast, ICLR 2019)."""
    return dict(average)


@register_outer("nesterov")
def nesterov(
    start: State,
    average: State,
    memory: State,
    *,
    trained: Collection[str],
    config: OuterOptions,
) -> State:
    """One step of SGD with Nesterov momentum along the averaged change, in float64.

    Start minus average is its gradient; a rate of 1 with momentum 0 is plain averaging.

    Source: Douillard et al., DiLoCo, 2023 (rate 0.7, momentum 0.9).
    """
    wanted = set(trained)
    names = [name for name in average if name in wanted]
    # A copy even of float64 weights: the start (theta* in the first round) must not change.
    values = [start[name].detach().cpu().to(torch.float64, copy=True) for name in names]
    for value, name in zip(values, names, strict=True):
        value.grad = value - average[name].double()
    momentum = config.outer_momentum
    sgd = torch.optim.SGD(values, lr=config.outer_lr, momentum=momentum, nesterov=momentum > 0)
    if memory and momentum:
        for value, name in zip(values, names, strict=True):
            sgd.state[value]["momentum_buffer"] = memory[name]
    sgd.step()
    for value, name in zip(values, names, strict=True):
        memory[name] = _momentum_of(sgd, value)
    moved = {name: value.to(average[name].dtype) for value, name in zip(values, names, strict=True)}
    return {name: moved.get(name, value) for name, value in average.items()}


def _momentum_of(sgd: torch.optim.SGD, value: Tensor) -> Tensor:
    buffer = sgd.state[value].get("momentum_buffer")
    return torch.zeros_like(value) if buffer is None else buffer
