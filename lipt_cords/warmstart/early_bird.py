"""The Early-Bird ticket of a warm start: searched in the common start, or by the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.models.copies import copy_model
from lipt_cords.models.flops import few_samples, flops_per_sample
from lipt_cords.models.state import State
from lipt_cords.training.cheaper.channels import ChannelGroups, scaled_batchnorms
from lipt_cords.training.cheaper.paths import block_shares
from lipt_cords.training.cheaper.tickets import (
    EarlyBirdConfig,
    SearchSchedule,
    Ticket,
    TicketRecord,
    TicketSearch,
    penalise_scales,
)
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.warmstart.bill import Bill
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.judge import Judge
from lipt_cords.warmstart.round_inputs import RoundInputs
from lipt_cords.warmstart.run import CommonStart, Run
from lipt_cords.warmstart.watch.watcher import StepHook, Watcher
from lipt_cords.warmstart.worker_results import FinishedWorker


class EarlyBird(Watcher):
    """Reads BatchNorm scales until a ticket can be drawn, then trains the ticket's smaller net.

    Args:
        config: the options of the warm start.
        options: ``early_bird`` of them.
        inputs: of the rounds; the model is on the device.
        bill: counts the passes of both nets.
        judge: evaluates states of the net that is trained.

    Raises:
        ValueError: a net without BatchNorm scales, or one that cannot be traced or cut.
    """

    name = "early_bird"

    def __init__(
        self,
        config: WarmStartConfig,
        options: EarlyBirdConfig,
        inputs: RoundInputs,
        bill: Bill,
        judge: Judge,
    ) -> None:
        self._config, self._options, self._inputs = config, options, inputs
        self._bill, self._judge = bill, judge
        device = next(inputs.model.parameters()).device
        with isolated_rng(config.seed, "ticket"):
            self._example, self._labels = few_samples(inputs.dataset, device)
            self._groups = ChannelGroups(inputs.model, self._example)
            self._search = TicketSearch(options, self._groups)
            self._search.check_cut(inputs.model, self._example)
        self.ticket: Ticket | None = None
        self._drawn: TicketRecord | None = None
        self._net_work = 1.0

    def step_hook(self) -> StepHook | None:
        if self._options.vote:
            return None
        return _StepSearch(self, self._inputs.model)

    def after_common_start(self, run: Run, done: CommonStart) -> None:
        if done.drawn is not None:
            self._settle(run, done.drawn)

    def before_round(self, run: Run) -> None:
        voting = self._options.vote and self._drawn is None
        run.scale_penalty = self._options.l1 if voting else None

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        """Read the scales of a merge; it is equal on all ranks, and so is their ticket."""
        if not self._options.vote or self._drawn is not None:
            return
        rounds = self._config.rounds  # at least one round trains the ticket's net
        latest = min(rounds - 1, max(1, round(self._options.latest * rounds)))
        schedule = SearchSchedule(self._search, every=1, latest=latest)
        if not schedule.ready(run.round, run.start) or run.round >= run.rounds:
            return
        self._bill.net_changes(run)
        self._settle(run, self.draw({"rounds": run.round}))

    def state(self) -> tuple[dict[str, State], dict[str, Any]]:
        masks = self._search.masks if self._options.vote else []
        tensors = {"masks": {"masks": torch.stack(masks).to(torch.uint8)}} if masks else {}
        drawn = self._drawn if self._options.vote else None
        values = None if drawn is None else {**vars(drawn)}
        return tensors, {"drawn": values}

    def restore(self, run: Run, tensors: dict[str, State], values: dict[str, Any]) -> None:
        if "masks" in tensors:
            self._search.masks = list(tensors["masks"]["masks"].bool())
        if values.get("drawn") is not None:
            self._settle(run, TicketRecord(**values["drawn"]))

    def notes(self) -> list[str]:
        if self.ticket is not None:
            return []
        return ["the rounds ended before an Early-Bird ticket was drawn: there is none"]

    def draw(self, after: Mapping[str, int]) -> TicketRecord:
        """Draw the ticket from the newest mask.

        Args:
            after: how many steps or rounds, for the report.
        """
        kept, rescued = self._search.choose()
        found = self._search.summary() | dict(after)
        return TicketRecord({n: channels.tolist() for n, channels in kept.items()}, rescued, found)

    def cut(self, drawn: TicketRecord, model: nn.Module) -> nn.Module:
        """The ticket's net, with the weights that the given net has now.

        Args:
            drawn: the ticket.
            model: the given net, on the device.
        """
        kept = {name: torch.tensor(some) for name, some in drawn.kept.items()}
        with isolated_rng(self._config.seed, "cut"):
            self.ticket = Ticket.cut(model, self._groups, self._example, kept, drawn.rescued)
            self._drawn = drawn
            return self.ticket.build(model)

    def summary(self) -> dict[str, Any] | None:
        """The entry in the report; None without a ticket."""
        if self.ticket is None or self._drawn is None:
            return None
        shapes = self.ticket.shapes
        return {
            **self._drawn.found,
            "work": self._net_work,
            "share_kept": self.ticket.share_kept,
            "layers": {
                name: [len(some), shapes[f"{name}.weight"][0]]
                for name, some in self._drawn.kept.items()
            },
            "rescued": self._drawn.rescued,
        }

    def schedule_of_steps(self) -> SearchSchedule:
        """The steps at which the common start reads its scales."""
        config, options = self._config, self._options
        samples = len(self._inputs.dataset)  # type: ignore[arg-type]
        epoch = steps_per_epoch(samples, config.batch_size)
        return SearchSchedule(
            self._search,
            every=options.every or max(1, min(epoch, config.common_steps // 20)),
            latest=max(1, round(options.latest * config.common_steps)),
        )

    def _settle(self, run: Run, drawn: TicketRecord) -> None:
        """Continue the run with the smaller net: its start, and the outer step's memory."""
        net = self.cut(drawn, run.net)
        ticket = self.ticket
        if ticket is None:
            raise ValueError("a ticket's net was cut, but no ticket is set")
        with isolated_rng(self._config.seed, "cut"):
            batch = (self._example, self._labels, self._inputs.loss)
            flops, forward_flops = flops_per_sample(net, *batch)
            run.net_work = self._net_work = flops / self._inputs.flops
            if self._config.subnetwork is not None:
                run.block_shares = block_shares(net, *batch, self._config.subnetwork)
        run.net, run.whole = net, ticket.expand
        run.start, run.outer_state = ticket.gather(run.start), ticket.gather(run.outer_state)
        self._judge.model = copy_model(net)
        self._bill.forward_flops = forward_flops


class _StepSearch:
    """The search in the steps of a common start."""

    def __init__(self, early_bird: EarlyBird, model: nn.Module) -> None:
        self._early_bird = early_bird
        self._scales, self._penalty = scaled_batchnorms(model), early_bird._options.l1
        self._schedule = early_bird.schedule_of_steps()

    def after_backward(self) -> None:
        penalise_scales(self._scales, self._penalty)

    def enough(self, net: nn.Module, steps: int) -> bool:
        return self._schedule.ready(steps, net.state_dict())

    def replace(self, net: nn.Module, steps: int) -> tuple[TicketRecord, nn.Module]:
        drawn = self._early_bird.draw({"steps": steps})
        return drawn, self._early_bird.cut(drawn, net)
