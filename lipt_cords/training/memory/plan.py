"""The plan: which storages are kept, which are swapped, which are recomputed.

After Capuchin (Peng et al., "Capuchin: Tensor-based GPU Memory Management for Deep Learning",
ASPLOS 2020), on storages. The search for decisions is in ``search``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from lipt_cords.base.sizes import check_bandwidth, show_bytes
from lipt_cords.training.memory.recipes import TraceIndex
from lipt_cords.training.memory.search import Search, Solution
from lipt_cords.training.memory.timeline import Timeline, simulate, triggers
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP, Trace

Policy = Literal["both", "swap", "recompute"]


@dataclass(frozen=True)
class Plan:
    """Decisions for a step, and their predicted effect.

    Attributes:
        budget: bytes.
        bandwidth: bytes a second of the link to the host, each way.
        decisions: ``swap`` or ``recompute`` by number of a storage; all others are kept.
        triggers: the demand of the backward pass, by number, at which the fetch of each swapped
            storage starts.
        trace: the planned step.
        timeline: the step under the plan.
    """

    budget: int
    bandwidth: float
    decisions: Mapping[int, str] = field(repr=False)
    triggers: Mapping[int, int] = field(repr=False)
    trace: Trace = field(repr=False)
    timeline: Timeline = field(repr=False)

    @property
    def peak(self) -> int:
        """Predicted peak of the step, in bytes."""
        return self.timeline.peak

    @property
    def overhead(self) -> float:
        """Seconds that the plan adds, relative to those of the plain step."""
        return self.timeline.seconds / self.trace.seconds if self.trace.seconds else 0.0

    def bytes_by_decision(self) -> dict[str, int]:
        """Bytes of the saved activations that are kept, swapped and recomputed."""
        found = {KEEP: 0, SWAP: 0, RECOMPUTE: 0}
        for number, storage in enumerate(self.trace.storages):
            if storage.saved is not None:
                found[self.decisions.get(number, KEEP)] += storage.size
        return found

    def counts(self) -> dict[str, int]:
        """How many storages are swapped and recomputed."""
        return {SWAP: 0, RECOMPUTE: 0, **Counter(self.decisions.values())}


def check_policy(policy: object) -> None:
    """Check the name of a policy.

    Raises:
        ValueError: another name.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"policy must be 'both', 'swap' or 'recompute', received {policy!r}")


def plan_activations(
    trace: Trace, budget: int, *, bandwidth: float = 12e9, policy: Policy = "both"
) -> Plan:
    """Decide what is kept, swapped and recomputed, so that a step fits.

    Args:
        trace: the measured step.
        budget: bytes for all that the step has in memory: weights, gradients, inputs, activations
            and temporary tensors.
        bandwidth: bytes a second of the link to the host, each way.
        policy: ``both``, or only one of them.

    Raises:
        ValueError: a budget that no decision reaches; the message names the least one that works.
    """
    check_bandwidth(bandwidth)
    check_policy(policy)
    if trace.activations and not trace.events:
        raise ValueError(
            "the step saved activations, and no backward pass asked for them: run the backward "
            "pass inside the planner too"
        )
    if not trace.activations:
        raise ValueError(
            "the step saved nothing for a backward pass, so there is nothing to plan: run forward "
            "pass, loss and backward pass inside, with gradients enabled"
        )
    index = TraceIndex(trace)
    found = _search(index, budget, bandwidth, policy)
    if found.timeline.peak > budget:
        # If the search finds no plan that fits, the one with the lowest peak may.
        lowest = _search(index, 0, bandwidth, policy)
        found = Solution(lowest.decisions, simulate(index, lowest.decisions, bandwidth, budget))
        least = lowest.timeline.peak
    if found.timeline.peak > budget:
        raise ValueError(
            f"a memory budget of {show_bytes(budget)} is too small: what is there before the step "
            f"(weights, gradients, inputs) takes {show_bytes(trace.base)}, and with every "
            f"activation moved as it can be the step takes {show_bytes(least)}: give at least "
            "that, or lower the batch size"
        )
    starts = triggers(index, found.decisions, bandwidth, budget)
    return Plan(budget, bandwidth, found.decisions, starts, trace, found.timeline)


def least_budget(trace: Trace, *, bandwidth: float = 12e9, policy: Policy = "both") -> int:
    """The smallest peak that the planner can reach for a step.

    Args:
        trace: the measured step.
        bandwidth: bytes a second of the link to the host, each way.
        policy: ``both``, or only one of them.

    Returns:
        Bytes; a budget of so many can be planned.
    """
    check_bandwidth(bandwidth)
    check_policy(policy)
    return _search(TraceIndex(trace), 0, bandwidth, policy).timeline.peak


def _search(index: TraceIndex, budget: int, bandwidth: float, policy: Policy) -> Solution:
    swaps, remakes = policy != "recompute", policy != "swap"
    search = Search(index, budget, bandwidth, swaps=swaps, remakes=remakes, timed=budget > 0)
    return search.best()
