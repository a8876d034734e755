"""Several nets trained as one: stacked weights, one pass and one step for all.

With a small net a device waits for its host: starting operations takes most of a step. Here every
operation is started once for all nets. A net that is large enough to keep the device busy gains
nothing, and some nets cannot be trained like this: both are tested by one or two steps on copies.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lipt_cords.base.devices import synchronize
from lipt_cords.data.batches import Inputs
from lipt_cords.models.arguments import taken
from lipt_cords.models.copies import copy_model
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.models.modes import train_as_given
from lipt_cords.models.outputs import logits_of
from lipt_cords.training.step import autocast_dtype
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.workers.local_training import train_locally

Batch = tuple[Inputs, Tensor]

LARGEST_DEVIATION = 0.1
"""Largest deviation of an ensemble's update from that of a single net, relative to its norm."""
MEASURED_SECONDS = 0.1
"""Seconds for which steps are repeated to measure them; a longer step is taken twice."""
CLEAR_LOSS = 1.5
"""An ensemble's first step is repeated if it takes at most so many times the steps in turn."""


@dataclass(frozen=True)
class StackedBatches:
    """Batches of neighbouring nets with one shape, stacked along a first dimension."""

    places: slice
    inputs: Inputs
    labels: Tensor


def stack_batches(batches: Sequence[Batch]) -> list[StackedBatches]:
    """Stack the batches of neighbouring nets, as long as they have one shape."""
    groups = []
    for _, found in itertools.groupby(
        range(len(batches)), key=lambda place: _shapes(*batches[place])
    ):
        first, *others = found
        places = slice(first, first + 1 + len(others))
        inputs, labels = zip(*batches[places], strict=True)
        stacked: Inputs
        if isinstance(inputs[0], Tensor):
            stacked = torch.stack(inputs)
        else:
            stacked = {name: torch.stack([one[name] for one in inputs]) for name in inputs[0]}
        groups.append(StackedBatches(places, stacked, torch.stack(labels)))
    return groups


class Ensemble(nn.Module):
    """Nets of one architecture, each with its own weights and buffers, called together.

    Args:
        models: the nets, which are copied.
        loss: mean loss of (logits, labels).
        head: name of the linear head; None: the last linear layer.

    Attributes:
        nets: copies of the given nets; their tensors are views into the stacks.
        stacked: their parameters, stacked along a first dimension; those of this module.
        matrices: those that are hidden weight matrices.
        observe: called in every step with the places of neighbouring nets, their logits (G, B, C)
            and labels (G, B); None: not called.
    """

    def __init__(
        self, models: Sequence[nn.Module], loss: LossFunction, head: str | None = None
    ) -> None:
        super().__init__()
        self._loss = loss
        self.observe: Callable[[slice, Tensor, Tensor], None] | None = None
        self.nets = [copy_model(model) for model in models]
        hidden = set(hidden_matrices(self.nets[0], head))
        self.stacked = nn.ParameterList()
        self._state: dict[str, Tensor] = {}
        stacks: dict[Tensor, Tensor] = {}  # of a tensor of the first net; it may have two names
        for name, parameter in self.nets[0].named_parameters(remove_duplicate=False):
            if parameter not in stacks:
                values = _share([net.get_parameter(name) for net in self.nets])
                stacks[parameter] = nn.Parameter(values, requires_grad=parameter.requires_grad)
                self.stacked.append(stacks[parameter])
            self._state[name] = stacks[parameter]
        self.matrices = [
            stack
            for one, stack in stacks.items()
            if one in hidden and isinstance(stack, nn.Parameter)
        ]
        for name, buffer in self.nets[0].named_buffers(remove_duplicate=False):
            if buffer not in stacks:
                stacks[buffer] = _share([net.get_buffer(name) for net in self.nets])
            self._state[name] = stacks[buffer]
        # Used only for its code; in a list, so that its weights are not part of this module.
        self._skeleton = [copy_model(models[0]).to("meta")]

    def train(self, mode: bool = True) -> Ensemble:
        """Set the mode of the skeleton net too."""
        if mode:
            train_as_given(self._skeleton[0])
        else:
            self._skeleton[0].eval()
        return super().train(mode)

    def forward(self, groups: Sequence[StackedBatches]) -> Tensor:
        """Losses of all nets on their batches, shape (nets,)."""
        losses = [self._losses(group) for group in groups]
        return losses[0] if len(losses) == 1 else torch.cat(losses)

    def _losses(self, group: StackedBatches) -> Tensor:
        state = self._state
        if len(group.labels) < len(self.nets):
            state = {name: value[group.places] for name, value in state.items()}
        kind = group.labels.device.type
        # The CPU's fused attention would run one net after the other; the plain formula does not.
        with sdpa_kernel([SDPBackend.MATH]) if kind == "cpu" else nullcontext():
            logits_GBC = vmap(self._logits, randomness="different")(state, group.inputs)
        half = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False):
            logits_GBC = logits_GBC.float() if half else logits_GBC
            if self.observe is not None:
                self.observe(group.places, logits_GBC.detach(), group.labels)
            if self._loss is F.cross_entropy:  # all samples at once; vmap would split it
                logits, labels = logits_GBC.flatten(0, 1), group.labels.flatten()
                values = F.cross_entropy(logits, labels, reduction="none")
                return values.view_as(group.labels).mean(dim=1)
            losses: Tensor = vmap(self._loss, randomness="different")(logits_GBC, group.labels)
            return losses

    def _logits(self, state: dict[str, Tensor], inputs: Inputs) -> Tensor:
        net = self._skeleton[0]
        if isinstance(inputs, Tensor):
            return logits_of(functional_call(net, state, (inputs,)))
        return logits_of(functional_call(net, state, (), taken(net, inputs)))


def train_ensemble(
    ensemble: Ensemble,
    read: Callable[[], Sequence[Batch]],
    *,
    steps: int,
    config: WarmStartConfig,
    last_epoch: int = 1,
    first_step: int = 0,
    all_steps: int | None = None,
    decay: tuple[int, int] | None = None,
    before_step: Callable[[int, Sequence[Batch]], None] = lambda step, batches: None,
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Train the nets of an ensemble in place, by the loop that trains one net.

    Images and convolutions lie in contiguous memory, whatever ``memory_format`` says: the
    convolutions of several nets are one with groups, which gains little from channels_last.

    Args:
        ensemble: on the device of the batches.
        read: returns a batch for every net.
        steps, config, first_step, all_steps, decay, after_step: as for one net.
        last_epoch: how many of the last steps' losses are returned.
        before_step: called with the number of the step and the batches.

    Returns:
        Losses of the last steps, shape (nets, steps), on the device.
    """
    history: deque[Tensor] = deque(maxlen=last_epoch)
    now: list[Batch] = []

    def batches() -> Iterator[tuple[Any, Tensor]]:
        while True:
            now[:] = read()
            yield {"groups": stack_batches(now)}, now[0][1]

    def before(step: int, inputs: Inputs, labels: Tensor) -> int:
        before_step(step, now)
        return 0

    def total(losses_G: Tensor, labels: Tensor) -> Tensor:
        history.append(losses_G.detach())
        return losses_G.sum()

    train_locally(
        ensemble,
        batches(),
        steps=steps,
        last_epoch=1,
        schedule=config.schedule,
        config=config.model_copy(update={"memory_format": "contiguous"}),
        loss=total,
        first_step=first_step,
        all_steps=all_steps,
        decay=decay,
        stacked=ensemble.matrices,
        before_step=before,
        after_step=after_step,
    )
    return torch.stack(list(history), dim=1)


def obstacle(
    model: nn.Module, loss: LossFunction, batch: Batch, config: WarmStartConfig
) -> str | None:
    """The reason why such nets cannot be trained as an ensemble; None if they can.

    One step of a single net and one step of two as an ensemble are taken on copies, in full
    precision. The weights must move alike, unless the two differ from each other because the net
    draws (dropout); and the same buffers must change: a net that
    replaces a buffer by a new tensor, instead of writing into it, would lose the values.
    """
    exact = config.model_copy(update={"precision": "fp32"})
    alone = copy_model(model)
    batches = itertools.repeat(batch)
    train_locally(
        alone, batches, steps=1, last_epoch=1, schedule="constant", config=exact, loss=loss
    )
    try:
        pair = Ensemble([model, model], loss)
        train_ensemble(pair, lambda: [batch, batch], steps=1, config=exact)
        if autocast_dtype(config.precision, batch[1].device) is not None:  # too coarse to compare
            half = Ensemble([model, model], loss)
            train_ensemble(half, lambda: [batch, batch], steps=1, config=config)
    except Exception as error:  # any error: the net's own code runs here
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        return f"{type(error).__name__}: {reason}"
    one, two = pair.nets
    lost = sorted(_changed_buffers(alone, model) ^ _changed_buffers(one, model))
    if lost:
        return f"the buffer {lost[0]!r} is not written in place"
    moved, moved_one, moved_two = (_update(net, model) for net in (alone, one, two))
    allowed = LARGEST_DEVIATION * moved.norm()
    if (moved_one - moved_two).norm() <= allowed < (moved_one - moved).norm():
        return "a step gives other weights than that of a single net"
    return None


def speedup(
    model: nn.Module, loss: LossFunction, batch: Batch, config: WarmStartConfig, nets: int
) -> float:
    """Time of some nets' steps in turn over that of one step of their ensemble, on copies.

    The fastest steps count, because disturbances only make a step slower. Neither side reads,
    prunes or augments data; a long step that is clearly slower is not repeated.
    """
    device, alone = batch[1].device, copy_model(model)
    # The time of one thread does not depend on other processes.
    single = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if single else time.perf_counter
    begun = 0.0
    seconds: list[float] = []

    def read() -> list[Batch]:
        nonlocal begun
        synchronize(device)
        begun = clock()
        return [batch] * nets

    def stop() -> None:
        synchronize(device)
        seconds.append(clock() - begun)

    def measure_alone(steps: int) -> float:
        batches = (read()[0] for _ in range(steps))
        train_locally(
            alone, batches, steps=steps, last_epoch=1, schedule="constant", config=config,
            loss=loss, after_step=stop,
        )  # fmt: skip
        return min(seconds)

    in_turn = nets * measure_alone(1 + _repeats(measure_alone(1)))
    seconds.clear()
    ensemble = Ensemble([model] * nets, loss)
    train_ensemble(ensemble, read, steps=1, config=config, after_step=stop)
    if seconds[0] < MEASURED_SECONDS or seconds[0] < CLEAR_LOSS * in_turn:
        steps = 1 + _repeats(seconds[0])
        train_ensemble(ensemble, read, steps=steps, config=config, after_step=stop)
    return in_turn / min(seconds)


def _repeats(seconds: float) -> int:
    """The number of steps of this length to measure."""
    return min(20, int(MEASURED_SECONDS / seconds))


def _changed_buffers(model: nn.Module, start: nn.Module) -> set[str]:
    before = dict(start.named_buffers())
    return {name for name, now in model.named_buffers() if not torch.equal(now, before[name])}


def _update(model: nn.Module, start: nn.Module) -> Tensor:
    """The change of the weights by training, as one vector."""
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return torch.cat([(now.detach() - before.detach()).flatten().float() for now, before in pairs])


def _share(own: Sequence[Tensor]) -> Tensor:
    """Stack tensors and make each a view of its place in the stack."""
    stack = torch.stack([one.detach() for one in own])
    for one, view in zip(own, stack.unbind(), strict=True):
        one.data = view
    return stack


def _shapes(inputs: Inputs, labels: Tensor) -> tuple[Any, ...]:
    named = {"": inputs} if isinstance(inputs, Tensor) else inputs
    return labels.shape, *((name, value.shape) for name, value in named.items())
