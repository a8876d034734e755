"""When rounds end early: the rule that readings of the probe are held against."""

from __future__ import annotations

from lipt_cords.warmstart.config import StopRule
from lipt_cords.warmstart.watch.stability import Stability


def should_stop(rule: StopRule, measured: Stability) -> bool:
    """Whether every condition of a rule holds; one that cannot be judged yet does not."""
    checks = []
    for name, wanted in rule.model_dump(exclude_none=True).items():
        value = getattr(measured, name)
        below = name in ("benefit", "merged_loss")
        checks.append(value is not None and (value < wanted if below else value > wanted))
    return all(checks)
