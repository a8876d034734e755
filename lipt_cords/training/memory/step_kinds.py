"""Kinds of steps: the measurements of each, and the plans that are followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from lipt_cords.training.memory.follower import IndexedPlan
from lipt_cords.training.memory.recipes import TraceIndex
from lipt_cords.training.memory.recorder import Recording
from lipt_cords.training.memory.timeline import simulate, triggers

FEEDBACK = 0.05
"""Least share of its swap time by which a late trigger moves forward (Capuchin, section 4.4). It
moves by half of its lateness if that is more, to adapt to a slow link in few steps."""


@dataclass
class FollowedPlan:
    """A plan that steps follow."""

    index: TraceIndex
    indexed: IndexedPlan
    earlier: dict[int, float] = field(default_factory=dict)
    peak: int | None = None

    def feed_back(self, waited: Mapping[int, float]) -> int:
        """Move the triggers of late storages forward, while the plan still fits.

        Args:
            waited: seconds that each storage came late.

        Returns:
            How many were moved.
        """
        plan, index = self.indexed.plan, self.index
        for one, late in waited.items():
            share = FEEDBACK * index.trace.storages[one].size / plan.bandwidth
            self.earlier[one] = self.earlier.get(one, 0.0) + max(share, late / 2)
        starts = triggers(index, plan.decisions, plan.bandwidth, plan.budget, self.earlier)
        moved = sum(starts[one] != plan.triggers[one] for one in starts)
        if not moved:
            return 0
        timeline = simulate(index, plan.decisions, plan.bandwidth, plan.budget, starts)
        if timeline.peak > plan.budget:
            return 0
        self.indexed.take(replace(plan, triggers=starts, timeline=timeline))
        return moved


@dataclass
class StepKind:
    """Steps with the same inputs' shapes and settings."""

    recording: Recording | None = None
    measured: int = 0
    changes: int = 0
    plans: dict[int, FollowedPlan] = field(default_factory=dict)
    """By the bytes before the step: an optimizer creates its state in its first step."""


@dataclass
class Plans:
    """Measurements and plans; planners of equal nets may share them."""

    kinds: dict[Any, StepKind] = field(default_factory=dict)


def planning_key(model: nn.Module, *options: Any) -> int:
    """The key of all that planners must have in common to share measurements."""
    layers = [(name, tuple(p.shape), p.dtype, p.requires_grad)
              for name, p in model.named_parameters()]  # fmt: skip
    return hash((repr(model), repr(layers), str(next(model.parameters()).device), *options))


def with_shorter_times(one: Recording, other: Recording) -> Recording:
    """The newer recording, with the shorter time of each operation."""
    if len(one.trace.ops) != len(other.trace.ops):
        return other
    ops = tuple(
        replace(
            new,
            seconds=min(new.seconds, old.seconds),
            repeatable=new.repeatable and old.repeatable,
            block=new.block or old.block,
        )
        for old, new in zip(one.trace.ops, other.trace.ops, strict=True)
    )
    storages = tuple(
        replace(new, block=new.block or old.block)
        for old, new in zip(one.trace.storages, other.trace.storages, strict=False)
    )
    if len(one.trace.storages) != len(other.trace.storages):
        storages = other.trace.storages
    return replace(other, trace=replace(other.trace, ops=ops, storages=storages))
