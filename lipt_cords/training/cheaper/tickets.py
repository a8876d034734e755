"""Early-Bird tickets: masks of channels that stop changing, and the smaller net that is kept.

You et al., "Drawing Early-Bird Tickets: Toward More Efficient Training of Deep Networks", ICLR
2020. Their search runs in 8 bits; here it runs in the training's precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from lipt_cords.base.messages import travels
from lipt_cords.base.options import StrictModel
from lipt_cords.data.batches import Inputs
from lipt_cords.models.copies import copy_model
from lipt_cords.models.heads import call_model, undisturbed
from lipt_cords.models.state import State, all_finite, tensor_state
from lipt_cords.training.cheaper.channels import ChannelGroups, dependency_graph, ticket_mask


class EarlyBirdConfig(StrictModel):
    """Early-Bird tickets (You et al., ICLR 2020): a smaller net, found early and then trained.

    >>> EarlyBirdConfig(ratio=0.5).window
    5
    """

    ratio: float = Field(0.3, ge=0, lt=1)
    """Share of the BatchNorm channels that is removed; 0: no search, the given net is trained."""
    epsilon: float = Field(0.1, ge=0, le=1)
    """The ticket is drawn once the newest mask differs from each of the others in the window in
    at most this share of the channels."""
    window: int = Field(5, ge=2)
    """Masks that are compared, the newest included."""
    every: int | None = Field(None, ge=1)
    """Steps between two masks. None: an epoch, as published; a warm start's common start, which
    is seldom ten epochs long, takes a twentieth of its steps where that is less."""
    l1: float = Field(1e-4, ge=0)
    """L1 penalty on BatchNorm's scales during the search, so that important and unimportant
    channels separate."""
    latest: float = Field(0.5, gt=0, le=1)
    """Share of the training (of a warm start: of the common start, or of the rounds) after which
    the newest mask is taken, settled or not; the report says which."""
    vote: bool = False
    """In a warm start: workers search on their shards, and the merged scales are read after every
    round; needs ``rounds`` of 2 or more. Otherwise the common start searches."""

    @field_validator("ratio", mode="before")
    @classmethod
    def _a_share(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not 0 <= value < 1:
            raise ValueError(f"ratio is a share from 0 to below 1, such as 0.3, received {value!r}")
        return value


@travels
@dataclass(frozen=True)
class TicketRecord:
    """A ticket as plain values, for other ranks and for files.

    Attributes:
        kept: channels that are kept in every BatchNorm layer.
        rescued: layers that would have lost all.
        found: the report of the search.
    """

    kept: dict[str, list[int]]
    rescued: list[str]
    found: dict[str, Any]


@dataclass(frozen=True)
class Ticket:
    """The channels that are kept, and the positions of the smaller net's entries in the given net.

    Attributes:
        kept: ascending channel numbers of every BatchNorm layer.
        rescued: layers that would have lost all channels, and keep their best.
        positions: for every floating-point entry of the smaller net's state dict, the positions of
            its elements in the flattened entry of the given net.
        shapes: of those entries in the given net.
        sizes: attributes of modules that count channels, by module: their values after the cut.
    """

    kept: dict[str, Tensor]
    rescued: list[str]
    positions: State
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, dict[str, Any]]

    @classmethod
    def cut(
        cls,
        model: nn.Module,
        groups: ChannelGroups,
        example: Inputs,
        kept: Mapping[str, Tensor],
        rescued: Sequence[str] = (),
    ) -> Ticket:
        """Compute the ticket for some channels; the given net is not changed.

        Args:
            model: the net.
            groups: its channels.
            example: a small batch of its inputs, on its device.
            kept: ascending channel numbers of every BatchNorm layer.
            rescued: layers that would have lost all.

        Raises:
            ValueError: the smaller net does not run, or its outputs differ from the given net's
                with those channels at zero.
        """
        # A copy whose elements are their own positions: after the cut it is the map of positions.
        # On the CPU, because some devices lack float64, which holds every position exactly.
        model, example = copy_model(model).cpu(), _on_cpu(example)
        net, state = copy_model(model), tensor_state(model, clone=False)
        with undisturbed(net):
            graph = dependency_graph(net, example)
        for tensor in _tensors(net, state).values():
            tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
        groups.remove(net, graph, kept)
        left = _tensors(net, state)
        ticket = cls(
            kept={name: channels.clone() for name, channels in kept.items()},
            rescued=list(rescued),
            positions={name: places.detach().long().cpu() for name, places in left.items()},
            shapes={name: tuple(state[name].shape) for name in left},
            sizes=_changed_sizes(model, net),
        )
        ticket._prove(model, example)
        return ticket

    def build(self, model: nn.Module) -> nn.Module:
        """The smaller net, with the present weights of the given net, which is not changed."""
        net, state = copy_model(model), tensor_state(model, clone=False)
        for name, sizes in self.sizes.items():
            net.get_submodule(name).__dict__.update(sizes)
        for name, tensor in _tensors(net, state).items():
            tensor.data = self._gathered(name, state[name])
        return net

    def gather(self, state: Mapping[str, Tensor]) -> State:
        """The smaller net's entries of a state of the given net."""
        return {name: self._gathered(name, value) for name, value in state.items()}

    def expand(self, state: Mapping[str, Tensor]) -> State:
        """A state of the given net with the same outputs as a state of the smaller net.

        All that is not in the ticket is zero (a running variance is one). In training it stays zero
        if activations are zero at zero, because such a channel has no gradient.
        """
        return {name: self._expanded(name, value) for name, value in state.items()}

    @property
    def share_kept(self) -> float:
        """Share of the BatchNorm channels that is kept."""
        everything = sum(self.shapes[f"{name}.weight"][0] for name in self.kept)
        return sum(map(len, self.kept.values())) / everything

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state is one of the smaller net."""
        return all(
            name in state and state[name].shape == places.shape
            for name, places in self.positions.items()
        )

    def tensors(self) -> State:
        """Its tensors, for a file."""
        return {f"position/{name}": places for name, places in self.positions.items()} | {
            f"kept/{name}": channels for name, channels in self.kept.items()
        }

    def details(self) -> dict[str, Any]:
        """All else, as plain values."""
        return {"rescued": self.rescued, "shapes": self.shapes, "sizes": self.sizes}

    @classmethod
    def parse(cls, tensors: Mapping[str, Tensor], details: Mapping[str, Any]) -> Ticket:
        """Rebuild it from :meth:`tensors` and :meth:`details`."""
        parts: dict[str, State] = {"position": {}, "kept": {}}
        for name, tensor in tensors.items():
            kind, _, entry = name.partition("/")
            parts[kind][entry] = tensor
        sizes = {
            module: {key: tuple(v) if isinstance(v, list) else v for key, v in some.items()}
            for module, some in details["sizes"].items()
        }
        shapes = {name: tuple(shape) for name, shape in details["shapes"].items()}
        return cls(parts["kept"], list(details["rescued"]), parts["position"], shapes, sizes)

    def _gathered(self, name: str, value: Tensor) -> Tensor:
        places = self.positions.get(name)
        return value if places is None else value.reshape(-1)[places.to(value.device)]

    def _expanded(self, name: str, value: Tensor) -> Tensor:
        places = self.positions.get(name)
        if places is None:
            return value
        layer, _, entry = name.rpartition(".")
        blank = float(entry == "running_var" and layer in self.kept)
        flat = value.new_full((math.prod(self.shapes[name]),), blank)
        flat[places.to(value.device).reshape(-1)] = value.reshape(-1)
        return flat.view(self.shapes[name])

    def _prove(self, model: nn.Module, example: Inputs) -> None:
        """Run both nets on a batch, to detect nets that do not allow the cut.

        With random weights, because a head of zeros would prove nothing.
        """
        dense, small = copy_model(model), self.build(model)
        draws = torch.Generator().manual_seed(0)
        for parameter in small.parameters():
            if parameter.is_floating_point():
                size = 0.5 / math.sqrt(max(1, parameter[0].numel() if parameter.ndim else 1))
                noise = torch.randn(parameter.shape, generator=draws, dtype=torch.float32)
                parameter.data += size * noise.to(parameter.dtype)
        name = type(model).__name__
        try:
            dense.load_state_dict(self.expand(tensor_state(small, clone=False)))
            with undisturbed(dense), undisturbed(small):
                expected, given = call_model(dense, example), call_model(small, example)
        except Exception as error:
            raise ValueError(
                f"{name} does not run without some of its channels ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}): leave early_bird out"
            ) from error
        if expected.shape != given.shape:
            raise ValueError(
                f"{name} has a BatchNorm layer whose channels are its outputs, which cannot be "
                "removed: leave early_bird out, or end the net in a linear head"
            )
        if not bool((expected - given).abs().max() <= 1e-3 * expected.abs().max()):
            raise ValueError(
                f"{name} does not compute the same with channels at zero as without them (a "
                "softmax or a normalisation over channels, a shuffle): leave early_bird out"
            )


def _on_cpu(inputs: Inputs) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.cpu()
    return {name: value.cpu() for name, value in inputs.items()}


def _tensors(net: nn.Module, state: Mapping[str, Tensor]) -> State:
    """The entries of a net's state that lose elements with a channel."""
    entries = (
        *net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False),
    )  # fmt: skip
    return {name: tensor for name, tensor in entries if name in state and tensor.ndim > 0}


def _changed_sizes(model: nn.Module, net: nn.Module) -> dict[str, dict[str, Any]]:
    """Attributes of modules that count channels and that the cut changed."""
    changed: dict[str, dict[str, Any]] = {}
    for name, module in net.named_modules():
        before = model.get_submodule(name).__dict__
        found = {
            key: value
            for key, value in module.__dict__.items()
            if type(value) in (int, tuple) and before.get(key) != value
        }
        if found:
            changed[name] = found
    return changed


class TicketSearch:
    """Collects masks from the scales, until they settle.

    Args:
        config: the options.
        groups: the net's channels.
    """

    def __init__(self, config: EarlyBirdConfig, groups: ChannelGroups) -> None:
        self.config, self.groups = config, groups
        self.masks: list[Tensor] = []
        self._scales: Tensor | None = None

    def add_mask(self, state: Mapping[str, Tensor]) -> bool:
        """Add a mask; returns whether the newest masks agree."""
        self._scales = self.groups.scales(state)
        self.masks.append(ticket_mask(self._scales, self.config.ratio))
        return self.settled

    @property
    def settled(self) -> bool:
        """Whether the newest mask is close to all others in the window."""
        window = self.masks[-self.config.window :]
        if len(window) < self.config.window:
            return False
        return all(distance(window[-1], old) <= self.config.epsilon for old in window[:-1])

    def check_cut(self, model: nn.Module, example: Inputs) -> None:
        """Cut a net by random scales, to test before any work whether it can be cut.

        Raises:
            ValueError: it cannot.
        """
        draws = torch.Generator().manual_seed(0)
        sizes = torch.rand(len(self.groups.size_of_group), generator=draws, dtype=torch.float64)
        scales = self.groups.with_fixed(sizes[self.groups.group_of])
        kept, rescued = self.groups.kept(ticket_mask(scales, self.config.ratio), scales)
        Ticket.cut(model, self.groups, example, kept, rescued)

    def choose(self) -> tuple[dict[str, Tensor], list[str]]:
        """Channels that the newest mask keeps, and the layers that would have lost all.

        Raises:
            ValueError: scales that do not differ, so that they rank nothing.
        """
        if self._scales is None:
            raise ValueError("a ticket is drawn from scales: add a mask first")
        stays = float(self.masks[-1].double().mean())
        if stays < 0.5 * (1 - self.config.ratio):
            raise ValueError(
                f"most of BatchNorm's scales are equal, so that they rank no channels: the mask "
                f"keeps {100 * stays:.0f} % where {100 * (1 - self.config.ratio):.0f} % are asked "
                "for. Train the scales (requires_grad, lr), or search longer"
            )
        return self.groups.kept(self.masks[-1], self._scales)

    def distances(self) -> list[list[float]]:
        """Normalised Hamming distance of every two masks, oldest first."""
        return [[distance(one, other) for other in self.masks] for one in self.masks]

    def summary(self) -> dict[str, Any]:
        """The report of the search, as plain values."""
        return {
            "ratio": self.config.ratio,
            "settled": self.settled,
            "masks": len(self.masks),
            "distances": [[round(value, 6) for value in row] for row in self.distances()],
        }


class SearchSchedule:
    """When a search reads the scales, and when the ticket is drawn.

    Args:
        search: the masks so far.
        every: steps or rounds between two masks.
        latest: steps or rounds after which the newest mask is taken, settled or not.
    """

    def __init__(self, search: TicketSearch, *, every: int, latest: int) -> None:
        self.search, self.every, self.latest = search, every, latest

    def ready(self, count: int, net: State | nn.Module) -> bool:
        """Add a mask if it is time; returns whether to draw the ticket now.

        Args:
            count: steps or rounds so far.
            net: the net or its state; ignored if its parameters are not finite.
        """
        last = count >= self.latest
        if not last and count % self.every:
            return False
        if isinstance(net, nn.Module):
            if not all_finite(dict(net.named_parameters())):
                return False  # the training itself reports that it diverged
            net = net.state_dict()
        return self.search.add_mask(net) or last


def distance(one: Tensor, other: Tensor) -> float:
    """Share of the channels in which two masks differ."""
    return float((one != other).double().mean())


def penalise_scales(layers: Mapping[str, nn.Module], strength: float) -> None:
    """Add the gradient of an L1 penalty on BatchNorm's scales, after the backward pass."""
    for layer in layers.values():
        scale = layer.weight
        if isinstance(scale, Tensor) and scale.grad is not None:
            scale.grad.add_(scale.detach().sign(), alpha=strength)


def ticket_notes(ticket: Mapping[str, Any] | None) -> list[str]:
    """Notes on a ticket, from the report of its search; empty without one."""
    if ticket is None:
        return []
    notes = []
    if not ticket["settled"]:
        notes.append(
            f"the Early-Bird ticket was drawn before its masks settled ({ticket['masks']} looked "
            "at): search longer (early_bird.latest, common_steps), look more often "
            "(early_bird.every), or raise early_bird.epsilon"
        )
    if ticket["rescued"]:
        named = ", ".join(ticket["rescued"])
        notes.append(f"the ticket would have removed these layers, which keep one group: {named}")
    return notes
