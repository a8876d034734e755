"""A warm start on a smaller net: where its Early-Bird ticket is searched, drawn and put to work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.models.flops import few_samples, flops_per_sample
from lipt_cords.models.state import State
from lipt_cords.training.cheaper.channels import ChannelGroups
from lipt_cords.training.cheaper.paths import block_shares
from lipt_cords.training.cheaper.tickets import Drawn, EarlyBirdConfig, Ticket, TicketSearch
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.round_inputs import Material


class SmallerNet:
    """The ticket of a warm start: its search, and what the rounds work on once it is drawn.

    Args:
        config: the options, ``early_bird`` among them.
        material: what the rounds work on; its model is on the device.

    Raises:
        ValueError: a net without BatchNorm scales, or one that cannot be traced.
    """

    def __init__(self, config: WarmStartConfig, options: EarlyBirdConfig, material: Material):
        self.options = options
        self._config, self._given = config, material
        device = next(material.model.parameters()).device
        with isolated_rng(config.seed, "ticket"):
            self._example, self._labels = few_samples(material.dataset, device)
            self.groups = ChannelGroups(material.model, self._example)
            self.search = TicketSearch(options, self.groups)
            self.search.rehearse(material.model, self._example)
        self.ticket: Ticket | None = None
        self.drawn: Drawn | None = None
        self._net_work = 1.0

    @property
    def every(self) -> int:
        """Steps of the common start between two masks."""
        steps, batch = self._config.common_steps, self._config.batch_size
        epoch = steps_per_epoch(len(self._given.dataset), batch)  # type: ignore[arg-type]
        return self.options.every or max(1, min(epoch, steps // 20))

    @property
    def latest_step(self) -> int:
        """Steps of the common start after which the newest mask is taken."""
        return max(1, round(self.options.latest * self._config.common_steps))

    @property
    def latest_round(self) -> int:
        """Rounds after which the newest mask is taken; one round at least trains the ticket."""
        rounds = self._config.rounds
        return min(rounds - 1, max(1, round(self.options.latest * rounds)))

    def draw(self, after: Mapping[str, int]) -> Drawn:
        """Take the newest mask.

        Args:
            after: when, for the report: steps or rounds.
        """
        kept, rescued = self.search.choose()
        found = self.search.summary() | dict(after)
        return Drawn({n: channels.tolist() for n, channels in kept.items()}, rescued, found)

    def adopt(self, drawn: Drawn, model: nn.Module) -> Material:
        """What the rounds work on from now on.

        Args:
            drawn: the ticket.
            model: the given net, on the device, with any weights.
        """
        kept = {name: torch.tensor(some) for name, some in drawn.kept.items()}
        config, given = self._config, self._given
        with isolated_rng(config.seed, "cut"):
            self.ticket = Ticket.cut(model, self.groups, self._example, kept, drawn.rescued)
            self.drawn = drawn
            net = self.ticket.build(model)
            batch = (self._example, self._labels, given.loss)
            flops = flops_per_sample(net, *batch)
            self._net_work = flops[0] / given.flops
            shares = given.block_shares
            if config.subnetwork is not None:
                shares = block_shares(net, *batch, config.subnetwork)
        return replace(
            given,
            model=net,
            block_shares=shares,
            forward_flops=flops[1],
            net_work=self._net_work,
        )

    def summary(self) -> dict[str, Any] | None:
        """What the report tells; None without a ticket."""
        if self.ticket is None or self.drawn is None:
            return None
        shapes = self.ticket.shapes
        return {
            **self.drawn.found,
            "work": self._net_work,
            "share_kept": self.ticket.share_kept,
            "layers": {
                name: [len(some), shapes[f"{name}.weight"][0]]
                for name, some in self.drawn.kept.items()
            },
            "rescued": self.drawn.rescued,
        }

    def expand(self, state: State) -> State:
        """A state as the given net's, for those who know that one alone."""
        return state if self.ticket is None else self.ticket.expand(state)

    def gather(self, state: Mapping[str, Tensor]) -> State:
        """The entries of the smaller net."""
        return dict(state) if self.ticket is None else self.ticket.gather(state)
