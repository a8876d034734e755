"""When rounds may end early: a rule that what held-out samples say is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from lipt_cords.base.options import StrictModel, by_name
from lipt_cords.warmstart.report import RoundReport
from lipt_cords.warmstart.watch.stability import Stability


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
