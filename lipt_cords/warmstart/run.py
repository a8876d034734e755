"""The state of a warm start, shared by its loop, team and watchers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from lipt_cords.base.messages import travels
from lipt_cords.models.state import State
from lipt_cords.training.cheaper.tickets import TicketRecord
from lipt_cords.warmstart.report import RoundReport, WorkerSummary
from lipt_cords.warmstart.watch.probe import Probe


@travels
@dataclass(frozen=True)
class CommonStart:
    """What the common start did.

    Attributes:
        passes: samples trained on, repeats counted.
        on_given_net: of these, those that trained the given net and not a smaller one.
        drawn: the Early-Bird ticket that was drawn, or None.
        state: theta*, on the rank that trained it.
    """

    passes: int
    on_given_net: int
    drawn: TicketRecord | None = None
    state: State | None = None

    def work(self, net_work: float) -> float:
        """The passes, weighted by the FLOPs of the net that was trained.

        Args:
            net_work: operations of the smaller net over those of the given one.
        """
        return self.on_given_net + (self.passes - self.on_given_net) * net_work


def _as_it_is(state: State) -> State:
    return state


@dataclass
class Run:
    """The state of one warm start; equal on every rank.

    Attributes:
        net: the trained net, on this rank's device; every round overwrites its weights.
        rounds: merges in all, as planned now; an early end lowers it.
        start: weights from which the next round starts.
        round: merges so far.
        outer_state: what the outer step keeps between rounds.
        decay: with an early end, the rounds from first to before end in which the rate falls;
            None: the rate follows the schedule.
        probe: held-out samples on which the workers of the coming round are compared, or None.
        scale_penalty: L1 penalty of BatchNorm's scales in the coming round; None: none.
        net_work: operations of ``net`` over those of the given one.
        block_shares: with ``subnetwork``, each block's share of a step's operations.
        whole: converts a state of ``net`` to the shapes of the given net.
        common_passes: samples that the common start trained on.
        common_work: the same, weighted by the FLOPs of the net that was trained.
        forward_passes: samples run forward to evaluate workers and merges.
        reports: of every merge.
        summaries: of the workers of every merge.
    """

    net: nn.Module
    rounds: int
    start: State = field(default_factory=dict)
    round: int = 0
    outer_state: State = field(default_factory=dict)
    decay: tuple[int, int] | None = None
    probe: Probe | None = None
    scale_penalty: float | None = None
    net_work: float = 1.0
    block_shares: tuple[float, ...] = ()
    whole: Callable[[State], State] = _as_it_is
    common_passes: int = 0
    common_work: float = 0.0
    forward_passes: int = 0
    reports: list[RoundReport] = field(default_factory=list)
    summaries: list[list[WorkerSummary]] = field(default_factory=list)

    @property
    def in_last_round(self) -> bool:
        """Whether the coming round is the last one that is planned."""
        return self.round == self.rounds - 1
