"""The rule by which rounds end early, from signals on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from lipt_cords.base.options import StrictModel, by_name
from lipt_cords.warmstart.report import RoundReport
from lipt_cords.warmstart.watch.stability import Stability
from lipt_cords.warmstart.watch.watcher import Watcher

if TYPE_CHECKING:
    from lipt_cords.warmstart.config import WarmStartConfig
    from lipt_cords.warmstart.run import Run
    from lipt_cords.warmstart.worker_results import FinishedWorker


class StopRule(StrictModel):
    """When a warm start of several rounds may end early: once all given conditions hold.

    Each is a signal of :class:`lipt_cords.warmstart.watch.stability.Stability`, measured on
    held-out data every few rounds. With the schedule ``wsd`` a third of the rounds
    so far follows, in which the rate falls to zero; the others end at once.
    """

    benefit: float | None = Field(None, gt=0, lt=1)
    """Stop when the merged model's loss fell by less than this share over the last quarter of the
    critical path; 0.05 is a good value. Recommended without other conditions."""
    merged_loss: float | None = Field(None, gt=0)
    """Stop when the merged model's held-out loss falls below this."""
    rank_correlation: float | None = Field(None, gt=-1, lt=1)
    """Stop when the split-half rank correlation of the losses exceeds this."""
    class_cosine: float | None = Field(None, gt=-1, lt=1)
    """Stop when the pairwise cosine of the class-mean gradients exceeds this."""

    @model_validator(mode="after")
    def _some_condition(self) -> StopRule:
        if not self.model_dump(exclude_none=True):
            raise ValueError(
                "stop_when needs a condition, such as benefit=0.05: set one of "
                + ", ".join(type(self).model_fields)
            )
        return self


class StopOptions(StrictModel):
    """Whether rounds may end early."""

    stop_when: StopRule | None = None
    """End the rounds early, once its condition holds at two readings in a row; needs held-out data.
    ``{"benefit": 0.05}`` is recommended."""

    @field_validator("stop_when", mode="before")
    @classmethod
    def _rule_by_name(cls, value: Any) -> Any:
        return by_name(value, StopRule, "conditions", "{'benefit': 0.05}")


def should_stop(rule: StopRule, measured: Stability) -> bool:
    """Whether every condition of a rule holds; one that has no value yet does not."""
    checks = []
    for name, wanted in rule.model_dump(exclude_none=True).items():
        value = getattr(measured, name)
        below = name in ("benefit", "merged_loss")
        checks.append(value is not None and (value < wanted if below else value > wanted))
    return all(checks)


def stopped_after(rule: StopRule, reports: Sequence[RoundReport]) -> int | None:
    """The number of rounds after which a rule held twice in a row; None if it did not."""
    held_before = False
    for one in reports:
        if not one.stability:
            continue
        # One reading may be noise: a loss may rise by chance and fall again.
        held = should_stop(rule, Stability.parse(one.stability))
        if held and held_before:
            return one.round + 1
        held_before = held
    return None


class EarlyStop(Watcher):
    """Ends the rounds by ``stop_when``.

    With the schedule ``wsd`` a third of the rounds so far follows, in which the rate falls.

    Args:
        config: the options.
    """

    def __init__(self, config: WarmStartConfig) -> None:
        self._config = config

    def resumed(self, run: Run) -> None:
        self._decide(run)

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        self._decide(run)

    def _decide(self, run: Run) -> None:
        config = self._config
        if config.stop_when is None:
            return
        stopped = stopped_after(config.stop_when, run.reports)
        if stopped is None:
            return
        more = math.ceil(stopped / 3) if config.schedule == "wsd" else 0
        run.rounds = min(config.rounds, stopped + more)
        run.decay = None if run.rounds == config.rounds else (stopped, run.rounds)
