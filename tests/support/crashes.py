"""Crashes as users meet them: in the middle of a training, or at a file that is being written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook


class Killed(BaseException):
    """What a crash looks like from inside."""


class Trainings:
    """Counts the trainings that take a step, through torch's own hook, and may die in one.

    A training is an optimizer of a net's weights: the common start is one, and so is every worker
    of every round, or every group of workers that are trained at once. Use it as a context.

    Args:
        die_in: number, from 0, of the training whose first step ends in :class:`Killed`.
    """

    def __init__(self, die_in: int | None = None) -> None:
        self.die_in, self.begun, self.steps = die_in, 0, 0
        self._seen: list[Optimizer] = []  # kept, so that none has the place of an earlier one

    def __enter__(self) -> Trainings:
        self._hook = register_optimizer_step_pre_hook(self._step)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()
        self._seen.clear()

    def _step(self, optimizer: Optimizer, *_: object) -> None:
        if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
            return  # it moves an average
        if not any(one is optimizer for one in self._seen):
            if self.begun == self.die_in:
                raise Killed
            self._seen.append(optimizer)
            self.begun += 1
        self.steps += 1


_on_write: list[Callable[[Path], None]] = []


@contextmanager
def writing(call: Callable[[Path], None]) -> Iterator[None]:
    """Call something before a file gets its name; what it raises is what the system raises."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_renamed)  # for good: Python takes none away
    _on_write.append(call)
    try:
        yield
    finally:
        _on_write.remove(call)


_hooked: list[bool] = []


def _renamed(event: str, arguments: tuple[object, ...]) -> None:
    if event == "os.rename" and _on_write:
        target = Path(os.fsdecode(arguments[1]))  # type: ignore[arg-type]
        for call in list(_on_write):
            call(target)
