"""One memory plan from a configuration: what a step takes, what the plan does, what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from lipt_cords.base.process_memory import free_bytes
from lipt_cords.base.provenance import provenance
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.assemble import pick_device, subset_size_of
from lipt_cords.experiments.memory_bench import Followed, MemoryBench
from lipt_cords.experiments.run import OnData, load_splits
from lipt_cords.training.memory.breakdown import PlainPeak, plain_peak
from lipt_cords.training.memory.largest_batch import LargestBatch, largest_batch
from lipt_cords.training.memory.plan import Plan, Policy, plan_activations
from lipt_cords.training.memory.report import MemoryReport
from lipt_cords.training.memory.trace import KEEP, Trace

SCHEMA = 1
AT_MOST = 4096
"""Samples at which the search for the largest batch ends by default."""
ROOM = 0.7
"""Share of the machine's free memory that measuring a larger batch may take."""

OnMeasured = Callable[[int, Trace], None]


@dataclass(frozen=True)
class Moved:
    """An activation that does not stay.

    Attributes:
        block: the module that made it, by name; empty outside of all.
        size: bytes.
        decision: ``swap`` or ``recompute``.
    """

    block: str
    size: int
    decision: str


@dataclass
class MemoryRun:
    """A plan, and what one step under it took."""

    plan: Plan
    """As it was made, before the step that followed it moved any trigger."""
    guided: MemoryReport
    """Of the steps that were taken."""
    same_bits: bool
    """Whether loss, gradients, weights and buffers of the guided step are the measured one's."""
    batch_size: int
    """Samples in the step."""
    weights: int
    """Bytes of the net's weights and buffers."""
    device: str
    """Where the step ran."""
    policy: str
    """``both``, ``swap`` or ``recompute``."""
    speed: float
    """How many times faster than this device the planned device is."""
    config: dict[str, Any]
    largest: LargestBatch | None = None
    """What the search for the largest batch found, if one was asked for."""
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=provenance)

    @property
    def plain(self) -> PlainPeak:
        """What the peak of the plain step is made of."""
        return plain_peak(self.plan.trace)

    @property
    def optimizer_state(self) -> int:
        """Bytes of the optimizer's state."""
        return self.plan.trace.resident - self.weights

    @property
    def moved(self) -> list[Moved]:
        """Activations that are swapped or recomputed, the largest first."""
        storages = self.plan.trace.storages
        found = [
            Moved(storages[number].block, storages[number].size, decision)
            for number, decision in self.plan.decisions.items()
        ]
        return sorted(found, key=lambda one: -one.size)

    @property
    def counts(self) -> dict[str, int]:
        """How many activations are kept, swapped and recomputed."""
        saved = sum(storage.saved is not None for storage in self.plan.trace.storages)
        return {KEEP: saved - len(self.plan.decisions), **self.plan.counts()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types, in bytes and seconds."""
        plan, guided, parts = self.plan, self.guided, asdict(self.plain)
        parts.pop("resident")
        return {
            "schema": SCHEMA,
            "kind": "memory_plan",
            "batch_size": self.batch_size,
            "device": self.device,
            "budget": plan.budget,
            "bandwidth": plan.bandwidth,
            "policy": self.policy,
            "speed": self.speed,
            "plain": {
                "peak": plan.trace.peak,
                "weights": self.weights,
                "optimizer": self.optimizer_state,
                **parts,
                "seconds": plan.trace.seconds,
            },
            "planned": {
                "peak": plan.peak,
                "overhead": plan.overhead,
                "storages": self.counts,
                "bytes": plan.bytes_by_decision(),
            },
            "guided": {
                "peak": guided.measured_peak,
                "seconds": guided.step_seconds,
                "waited": guided.waited,
                "recomputed": guided.recomputed,
                "same_bits": self.same_bits,
            },
            "moved": [asdict(one) for one in self.moved],
            "largest": None if self.largest is None else _searched(self.largest),
            "notes": self.notes,
            "config": self.config,
            "provenance": self.provenance,
        }


def plan_memory(
    config: RunConfig,
    budget: int,
    *,
    batch_size: int | None = None,
    bandwidth: float | None = None,
    policy: Policy = "both",
    speed: float = 1.0,
    largest: bool = False,
    at_most: int = AT_MOST,
    splits: DataSplits | None = None,
    on_data: OnData | None = None,
    on_measured: OnMeasured | None = None,
) -> MemoryRun:
    """Plan the training step of a configuration within a memory budget, and take it once.

    Args:
        config: its data, net, loss, optimizer, precision and layout.
        budget: bytes for all that the step has in memory.
        batch_size: samples in it; None: the configuration's. Samples repeat where the training
            data are fewer.
        bandwidth: bytes a second to the host, each way; None measures it on a GPU, and takes 12e9
            on a CPU, where the device is simulated.
        policy: ``both``, or ``swap`` or ``recompute`` alone.
        speed: plan as for a device that is so many times faster than this one, behind the same
            link; the guided step still runs on this one.
        largest: search for the largest batch that fits, from ``batch_size`` on, and plan the step
            on that one.
        at_most: samples at which that search ends.
        splits: the data, already loaded.
        on_data: called with the data when they are loaded here, to say what they are.
        on_measured: called with each batch size that the search has measured, and its trace.

    Raises:
        ValueError: whatever is wrong with the options or the data, or a budget that no plan
            reaches; the least that works is named.
    """
    if not speed > 0:
        raise ValueError(
            f"speed must be positive, received {speed:g}: 10 plans for a device ten times faster"
        )
    notes: list[str] = []
    device = pick_device(config.train_args.device, notes)
    splits = load_splits(config, on_data) if splits is None else splits
    bench = MemoryBench(config, splits, device, bandwidth=bandwidth, policy=policy, speed=speed)
    size = config.dataloader.batch_size if batch_size is None else batch_size
    found = None
    if largest:
        found = _search(bench, budget, size, at_most, on_measured)
        size, followed = _follow_largest(bench, found, budget)
        found = replace(found, planned=size, plan=followed.plan)
    else:
        followed = bench.follow(size, budget)
    return MemoryRun(
        plan=followed.plan,
        guided=followed.report,
        same_bits=followed.same_bits,
        batch_size=size,
        weights=bench.weights,
        device=str(device),
        policy=policy,
        speed=speed,
        config=config.to_dict(),
        largest=found,
        notes=[*notes, *_too_many(config, splits, size), *followed.report.notes],
    )


def _too_many(config: RunConfig, splits: DataSplits, size: int) -> list[str]:
    """A note where no training on this subset has such a batch."""
    subset = subset_size_of(len(splits.train), config)  # type: ignore[arg-type]
    if size <= subset:
        return []
    return [
        f"a subset of fraction {config.dss_args.fraction:g} has {subset:,} samples, so training on "
        f"it has no batch of {size:,}"
    ]


def _search(
    bench: MemoryBench, budget: int, start: int, at_most: int, on_measured: OnMeasured | None
) -> LargestBatch:
    """The largest batch that fits.

    Raises:
        ValueError: not even the smallest one does.
    """

    def measure(samples: int) -> Trace:
        trace = bench.measure(samples)
        if on_measured is not None:
            on_measured(samples, trace)
        return trace

    terms: dict[str, Any] = {"bandwidth": bench.bandwidth, "policy": bench.policy}
    # What is on a GPU's host, and everything of a simulated device, is in the machine's memory.
    room = int(ROOM * free_bytes(torch.device("cpu")))
    found = largest_batch(measure, budget, **terms, start=start, at_most=at_most, room=room)
    if not found.planned:
        if not found.traces:
            raise ValueError(found.stopped)
        plan_activations(found.traces[min(found.traces)], budget, **terms)  # names the least one
    return found


def _follow_largest(bench: MemoryBench, found: LargestBatch, budget: int) -> tuple[int, Followed]:
    """Take a step on the largest batch; where it takes other times now, one a little smaller."""
    size = found.planned
    while True:
        try:
            return size, bench.follow(size, budget)
        except ValueError:
            smaller = max(found.plain, size - max(1, size // 20))
            if smaller in (0, size):
                raise
            size = smaller


def _searched(found: LargestBatch) -> dict[str, Any]:
    return {
        "plain": found.plain,
        "planned": found.planned,
        "ratio": found.ratio,
        "stopped": found.stopped,
        "plain_peaks": {str(size): trace.peak for size, trace in sorted(found.traces.items())},
    }
