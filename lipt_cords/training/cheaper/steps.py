"""Cheaper steps of a training on a subset: paths of residual blocks, and an Early-Bird ticket.

The same two methods as in a warm start. A training loop must call them before a step and after its
backward pass, and allow the net to be replaced afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lipt_cords.base.randomness import preserved_rng
from lipt_cords.data.batches import Inputs
from lipt_cords.models.flops import flops_per_sample
from lipt_cords.models.losses import LossFunction
from lipt_cords.training.cheaper.channels import ChannelGroups, scaled_batchnorms
from lipt_cords.training.cheaper.path_schedule import SubnetworkConfig
from lipt_cords.training.cheaper.paths import Paths, block_shares
from lipt_cords.training.cheaper.tickets import (
    EarlyBirdConfig,
    SearchSchedule,
    Ticket,
    TicketSearch,
    penalise_scales,
)


class CheaperSteps:
    """Cheaper steps of one training: paths, a ticket, or both.

    Args:
        model: the given net, on its device.
        batch: a few samples of its inputs, and their labels, on its device.
        loss: mean loss of (logits, labels).
        steps: of the whole training.
        epoch_steps: of an epoch.
        seed: of the paths.
        subnetwork: options of progressive subnetworks, or None.
        early_bird: options of the ticket, or None.

    Raises:
        ValueError: a net on which the methods do not work, or stages that do not fit it.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: tuple[Inputs, Tensor],
        loss: LossFunction,
        *,
        steps: int,
        epoch_steps: int,
        seed: int,
        subnetwork: SubnetworkConfig | None = None,
        early_bird: EarlyBirdConfig | None = None,
    ) -> None:
        self.given = self.net = model
        self.ticket: Ticket | None = None
        self.step, self.passes = 0, 0
        self._batch, self._loss, self._steps, self._seed = batch, loss, steps, seed
        self._subnetwork = subnetwork
        self._whole = flops_per_sample(model, *batch, loss)[0]
        self._hooks = ExitStack()
        self._spent = 0.0  # operations in passes of the given net, before the present net and paths
        self._counted_from = 0  # passes
        self._search: TicketSearch | None = None
        if early_bird is not None and early_bird.ratio > 0:
            self._search = TicketSearch(early_bird, ChannelGroups(model, batch[0]))
            self._search.check_cut(model, batch[0])
            self._layers = scaled_batchnorms(model)
            self._schedule = SearchSchedule(
                self._search,
                every=early_bird.every or epoch_steps,
                latest=max(1, round(early_bird.latest * steps)),
            )
        self._settle_on(model)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Blocks have hooks inside; afterwards there are none, and the given net is trained."""
        try:
            yield
        finally:
            self._hooks.close()
            self.finish()

    @contextmanager
    def given_net_updated(self) -> Iterator[None]:
        """Inside, the given net has the present weights, and no hooks."""
        self._hooks.close()
        self.finish()
        yield
        if self._paths is not None:
            self._hooks.enter_context(self._paths.applied())

    def before_step(self, samples: int) -> None:
        """Draw the path of the next step, on a batch of so many samples."""
        self.passes += samples
        if self._paths is not None:
            self._paths.choose(self.step, samples)

    def after_backward(self) -> None:
        """Penalise scales while a ticket is searched."""
        if self._search is not None and self.ticket is None:
            penalise_scales(self._layers, self._search.config.l1)

    def after_step(self) -> bool:
        """Count the step; returns whether ``net`` is a smaller net from now on."""
        self.step += 1
        search = self._search
        if search is None or self.ticket is not None:
            return False
        if not self._schedule.ready(self.step, self.net):
            return False
        self._draw(*search.choose())
        return True

    def before_evaluation(self) -> None:
        """Let every block run, unscaled."""
        if self._paths is not None:
            self._paths.run_all_blocks()

    def finish(self) -> None:
        """Put the smaller net's weights into the given one, zeros elsewhere."""
        if self.ticket is not None:
            self.given.load_state_dict(self.ticket.expand(self.net.state_dict()))

    @property
    def work(self) -> float:
        """Operations so far over those of as many passes of the given net."""
        return self._work_now() / self.passes if self.passes else 1.0

    def ticket_report(self) -> dict[str, Any] | None:
        """The report of the ticket; None without one."""
        if self.ticket is None or self._search is None:
            return None
        return {
            **self._search.summary(), "steps": self._drawn_at, "work": self._net_work,
            "share_kept": self.ticket.share_kept, "rescued": self.ticket.rescued,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that decides the following steps."""
        return {
            "step": self.step,
            "passes": self.passes,
            "work": self._work_now(),
            "masks": [] if self._search is None else self._search.masks,
            "ticket": None
            if self.ticket is None
            else {"kept": self.ticket.kept, "rescued": self.ticket.rescued, "at": self._drawn_at},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; ``net`` is then the net of that state."""
        if self._search is not None:
            self._search.masks = list(state["masks"])
        if state["ticket"] is not None:
            self.step = state["ticket"]["at"]
            self._draw(state["ticket"]["kept"], state["ticket"]["rescued"])
        self.step, self._spent = state["step"], state["work"]
        self.passes = self._counted_from = state["passes"]

    def move_momentum(self, optimizer: Optimizer, before: nn.Module) -> None:
        """Continue an optimizer with the smaller net: keep its state of the remaining weights.

        Args:
            optimizer: over the parameters of the net before.
            before: that net.
        """
        if self.ticket is None:
            raise ValueError("expected a drawn ticket")
        known = {}
        old = dict(before.named_parameters())
        for name, parameter in self.net.named_parameters():
            shape = old[name].shape
            known[parameter] = {
                key: self.ticket.gather({name: value})[name]
                if isinstance(value, Tensor) and value.shape == shape
                else value
                for key, value in optimizer.state.get(old[name], {}).items()
            }
        names = {parameter: name for name, parameter in old.items()}
        new = dict(self.net.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [new[names[parameter]] for parameter in group["params"]]
        optimizer.state.clear()
        optimizer.state.update({parameter: some for parameter, some in known.items() if some})

    def _draw(self, kept: Mapping[str, Tensor], rescued: list[str]) -> None:
        search = self._search
        if search is None:
            raise ValueError("the checkpoint has an Early-Bird ticket, but early_bird is not set")
        self._hooks.close()  # a copy of a block with hooks would run the original
        self._spent, self._counted_from = self._work_now(), self.passes
        with preserved_rng():
            self.ticket = Ticket.cut(self.net, search.groups, self._batch[0], kept, rescued)
            self._drawn_at = self.step
            self._settle_on(self.ticket.build(self.net))

    def _settle_on(self, net: nn.Module) -> None:
        """Set the net, and add hooks to its blocks."""
        self.net, config = net, self._subnetwork
        self._net_work = flops_per_sample(net, *self._batch, self._loss)[0] / self._whole
        self._paths: Paths | None = None
        if config is not None:
            self._shares = block_shares(net, *self._batch, self._loss, config)
            self._paths = Paths(net, config, self._steps, self._seed, "train on subset")
            self._hooks.enter_context(self._paths.applied())

    def _work_now(self) -> float:
        if self._paths is None:
            return self._spent + (self.passes - self._counted_from) * self._net_work
        return self._spent + self._paths.spent(self._shares) * self._net_work


def parse_cheaper(
    subnetwork: Any, early_bird: Any
) -> tuple[SubnetworkConfig | None, EarlyBirdConfig | None]:
    """Options as records, from records or mappings.

    Raises:
        ValueError: an option that is unknown or out of range, or a ``vote`` without workers.
    """
    found: list[Any] = []
    for name, value, kind in (
        ("subnetwork", subnetwork, SubnetworkConfig),
        ("early_bird", early_bird, EarlyBirdConfig),
    ):
        if value is not None and not isinstance(value, kind | Mapping):
            raise ValueError(f"{name}: expected options by name, such as {{}}, received {value!r}")
        if isinstance(value, Mapping):
            value = kind(**{str(key): one for key, one in value.items()})
        found.append(value)
    if found[1] is not None and found[1].vote:
        raise ValueError(
            "early_bird.vote is of a warm start's workers, and this training has none: leave it out"
        )
    return found[0], found[1]
