"""Watchers: what is done around the rounds of a warm start.

A watcher sees the run at fixed points and may change it there: end it early, restore it from disk,
or go on with a smaller net.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from lipt_cords.models.state import State
from lipt_cords.training.cheaper.tickets import TicketRecord
from lipt_cords.warmstart.run import CommonStart, Run
from lipt_cords.warmstart.worker_results import FinishedWorker


class StepHook(Protocol):
    """Hooks in the steps of a common start, on rank 0."""

    def after_backward(self) -> None:
        """Change gradients before the optimizer's step."""

    def enough(self, net: nn.Module, steps: int) -> bool:
        """Whether to continue with another net after so many steps."""

    def replace(self, net: nn.Module, steps: int) -> tuple[TicketRecord, nn.Module]:
        """The net to continue with, and its ticket."""


class Watcher:
    """One watcher; every rank calls every method, in the order of the list.

    If a method exchanges data between ranks, it must do the same exchanges on every rank.
    """

    name = ""
    """The name under which its state is stored with a merge; empty if it has none."""

    def step_hook(self) -> StepHook | None:
        """Hooks in the steps of the common start; called on rank 0."""
        return None

    def stored_start(self) -> CommonStart | None:
        """The stored common start, or None; called on rank 0."""
        return None

    def keep_start(self, done: CommonStart) -> None:
        """Store the common start; called on rank 0."""

    def after_common_start(self, run: Run, done: CommonStart) -> None:
        """Called after the common start, before ``run.start`` is set."""

    def resume(self, run: Run, watchers: Sequence[Watcher]) -> None:
        """Restore a run, and the state of all watchers, from ``work_dir``."""

    def before_first_round(self, run: Run) -> None:
        """Called before the first round: at theta*, or after a stored merge."""

    def before_round(self, run: Run) -> None:
        """Called before each round."""

    def after_training(self, run: Run) -> None:
        """Called after the workers of a round are trained."""

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        """Called after the workers are merged; ``run`` is at the start of the next round."""

    def state(self) -> tuple[dict[str, State], dict[str, Any]]:
        """The state to store: tensors by group and name, and plain values."""
        return {}, {}

    def restore(self, run: Run, tensors: dict[str, State], values: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""

    def notes(self) -> list[str]:
        """Sentences for the report; called on rank 0."""
        return []


class Watchers:
    """A list of watchers with the methods of one.

    Args:
        watchers: in the order in which they are called.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._all = list(watchers)

    def step_hook(self) -> StepHook | None:
        """The first that is not None."""
        return next((hook for one in self._all if (hook := one.step_hook()) is not None), None)

    def stored_start(self) -> CommonStart | None:
        """The first that is not None."""
        return next((done for one in self._all if (done := one.stored_start()) is not None), None)

    def keep_start(self, done: CommonStart) -> None:
        """See :class:`Watcher`, as for the other methods."""
        for one in self._all:
            one.keep_start(done)

    def after_common_start(self, run: Run, done: CommonStart) -> None:
        for one in self._all:
            one.after_common_start(run, done)

    def resume(self, run: Run) -> None:
        for one in self._all:
            one.resume(run, self._all)
        for one in self._all:
            one.before_first_round(run)

    def before_round(self, run: Run) -> None:
        for one in self._all:
            one.before_round(run)

    def after_training(self, run: Run) -> None:
        for one in self._all:
            one.after_training(run)

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        for one in self._all:
            one.after_merge(run, workers)

    def notes(self) -> list[str]:
        """The notes of all, in their order."""
        return [note for one in self._all for note in one.notes()]
