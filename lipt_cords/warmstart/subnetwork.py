"""Progressive subnetworks (RaPTr): every step trains a random path of residual blocks.

A path leaves out residual blocks, which are then the identity and are not executed; paths grow in
stages until the whole net trains (Panigrahi et al., "Efficient Stagewise Pretraining via
Progressive Subnetworks", arXiv 2402.05913). Blocks are changed by hooks that are gone afterwards:
the names of the weights stay, and a path that leaves nothing out gives the very bits of plain
training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.data import Inputs
from lipt_cords.nets import ResidualBlock, WideBlock
from lipt_cords.randomness import generator
from lipt_cords.subnetwork_options import SubnetworkConfig
from lipt_cords.warmstart.cost import flops_per_sample
from lipt_cords.warmstart.objective import LossFunction

STAGES = (1 / 2, 2 / 3, 5 / 6, 1)
"""Path lengths of the stages over the number of blocks: 6-8-10-12 of 12, as published."""


TORCHVISION = {
    "torchvision.models.resnet.BasicBlock": "bn2",
    "torchvision.models.resnet.Bottleneck": "bn3",
}
"""Residual blocks of torchvision, and the module in which their branch ends."""


@dataclass(frozen=True)
class Block:
    """A residual block whose shortcut is the identity, so that it can be left out.

    Attributes:
        name: in ``model.named_modules()``.
        module: the block.
        ends: its modules whose outputs are residual branches, to be rescaled.
    """

    name: str
    module: nn.Module
    ends: tuple[nn.Module, ...]


def residual_blocks(model: nn.Module, names: Sequence[str] | None = None) -> list[Block]:
    """The blocks of a net that can be left out, in the order in which they were built.

    Found in this package's ResNets and WRNs, torchvision's ResNets and ``nn.TransformerEncoder``;
    of other nets they are named, and then not rescaled. Blocks that change the shape are left out
    of the list, as they cannot be left out of the net.

    Args:
        model: the net.
        names: of the blocks; None finds them.

    Raises:
        ValueError: no such block, or a name that the net does not have.
    """
    modules = dict(model.named_modules())
    if names is not None:
        unknown = [name for name in names if name not in modules]
        if unknown:
            raise ValueError(
                f"subnetwork.blocks names {unknown[0]!r}, which is no module of the net: expected "
                "names of model.named_modules()"
            )
        return [Block(name, modules[name], _ends(modules[name]) or ()) for name in names]
    found = []
    for name, module in modules.items():
        ends = _ends(module)
        if ends is not None:
            found.append(Block(name, module, ends))
    if not found:
        raise ValueError(
            "subnetwork needs residual blocks with an identity shortcut, and none was found in "
            f"{type(model).__name__}: name them (subnetwork.blocks), or leave subnetwork out"
        )
    return found


def _ends(module: nn.Module) -> tuple[nn.Module, ...] | None:
    """Where the residual branches of a block end; None if it is no block that can be left out."""
    if isinstance(module, ResidualBlock | WideBlock):
        return (module.branch,) if isinstance(module.shortcut, nn.Identity) else None
    for kind in type(module).__mro__:
        # By name: importing torchvision's nets to ask would take longer than anything else here.
        end = TORCHVISION.get(f"{kind.__module__}.{kind.__name__}")
        if end is not None:
            return (getattr(module, end),) if module.downsample is None else None
    if isinstance(module, nn.TransformerEncoderLayer):
        return (module.dropout1, module.dropout2)
    return None


@dataclass(frozen=True)
class Stage:
    """A stretch of steps with one expected path length.

    Attributes:
        end: the share of all steps after which it ends.
        length: blocks of a path, those always kept included.
    """

    end: float
    length: int


class PathSchedule:
    """Which blocks run at a step: a function of the step, the seed and the names alone.

    Args:
        config: the options.
        blocks: how many blocks can be left out, L.
        steps: of the whole schedule.

    Raises:
        ValueError: stages that do not end at full length, or a path shorter than what is kept.
    """

    def __init__(self, config: SubnetworkConfig, blocks: int, steps: int) -> None:
        self.config, self.blocks, self.steps = config, blocks, steps
        self.always = self._always()
        self.stages = self._stages()

    def _always(self) -> tuple[int, ...]:
        given = self.config.always
        kept = tuple(sorted({0, self.blocks - 1})) if given is None else tuple(sorted(set(given)))
        beyond = [number for number in kept if not 0 <= number < self.blocks]
        if beyond:
            raise ValueError(
                f"subnetwork.always keeps block {beyond[0]}, but the net has {self.blocks} that "
                f"can be left out: expected numbers from 0 to {self.blocks - 1}"
            )
        return kept

    def _stages(self) -> tuple[Stage, ...]:
        config, most = self.config, self.blocks
        lengths = config.lengths
        if lengths is None:
            lengths = tuple(max(len(self.always), round(share * most)) for share in STAGES)
        shares = config.shares or (1 / len(lengths),) * len(lengths)
        if len(shares) != len(lengths):
            raise ValueError(
                f"subnetwork.shares has {len(shares)} stages and lengths {len(lengths)}: give one "
                "share of the steps for each length"
            )
        for length in lengths:
            if not len(self.always) <= length <= most:
                raise ValueError(
                    f"subnetwork.lengths has {length}, expected from {len(self.always)} (blocks "
                    f"always kept) to {most} (blocks that can be left out)"
                )
        if config.control == "none" and lengths[-1] != most:
            raise ValueError(
                f"subnetwork.lengths ends at {lengths[-1]} of {most} blocks: the last stage must "
                "train the whole net (or set control='constant' for the control that does not)"
            )
        ends = torch.tensor(shares, dtype=torch.float64).cumsum(0).tolist()
        return tuple(Stage(end, length) for end, length in zip(ends, lengths, strict=True))

    def stage(self, step: int) -> Stage:
        """The stage of a step, counted from 0."""
        done = (step + 0.5) / self.steps
        return next((stage for stage in self.stages if done < stage.end), self.stages[-1])

    def chances(self, step: int) -> list[float]:
        """The probability of every block to run at a step."""
        if self.config.control == "stochastic-depth":
            last, count = self.config.survival, max(1, self.blocks)
            return [1 - (number + 1) / count * (1 - last) for number in range(self.blocks)]
        free = self.blocks - len(self.always)
        chance = (self.stage(step).length - len(self.always)) / free if free else 1.0
        return [1.0 if number in self.always else chance for number in range(self.blocks)]

    def path(self, step: int, seed: int, *names: str | int) -> list[bool]:
        """Which blocks run at a step."""
        draws = generator(seed, *names, "path", step)
        drawn = torch.rand(self.blocks, generator=draws).tolist()
        if self.config.paths == "bernoulli" or self.config.control == "stochastic-depth":
            chances = self.chances(step)
            return [value < chance for value, chance in zip(drawn, chances, strict=True)]
        free = [number for number in range(self.blocks) if number not in self.always]
        wanted = self.stage(step).length - len(self.always)
        chosen = {*self.always, *sorted(free, key=lambda number: drawn[number])[:wanted]}
        return [number in chosen for number in range(self.blocks)]

    def scales(self, step: int) -> list[float]:
        """The factor of every block's residual branches when it runs."""
        if self.config.control == "stochastic-depth":
            return [1 / chance for chance in self.chances(step)]
        ratio = self.blocks / self.stage(step).length
        power = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[self.config.scaling]
        return [math.pow(ratio, power)] * self.blocks


class _Tally:
    """Paths of one stage: how often each block was expected to run, and ran."""

    def __init__(self, blocks: int) -> None:
        self.steps = 0
        self.expected, self.ran = [0.0] * blocks, [0.0] * blocks

    def add(self, runs: Sequence[bool], chances: Sequence[float]) -> None:
        self.steps += 1
        self.expected = [had + one for had, one in zip(self.expected, chances, strict=True)]
        self.ran = [had + one for had, one in zip(self.ran, runs, strict=True)]

    def work(self, ran: Sequence[float], shares: Sequence[float]) -> float:
        """Operations, in steps of the whole net."""
        left_out = (share * (self.steps - had) for share, had in zip(shares, ran, strict=True))
        return self.steps - sum(left_out)


class Paths:
    """Leaves blocks of a net out, step by step, while it is entered.

    Args:
        model: the net; its blocks get hooks, which go when this is left.
        config: the options.
        steps: of the whole schedule.
        seed: of the draws.
        names: what they derive from besides.

    Raises:
        ValueError: see :func:`residual_blocks` and :class:`PathSchedule`.
    """

    def __init__(
        self, model: nn.Module, config: SubnetworkConfig, steps: int, seed: int, *names: str | int
    ) -> None:
        self.found = residual_blocks(model, config.blocks)
        self.schedule = PathSchedule(config, len(self.found), steps)
        self._seed, self._names = seed, names
        self._runs = [True] * len(self.found)
        self._scales = [1.0] * len(self.found)
        self.steps = 0
        """Paths drawn so far."""
        self.ran = [0] * len(self.found)
        """How often each block was on one."""
        self._stages: dict[Stage, _Tally] = {}

    def choose(self, step: int) -> list[bool]:
        """Draw the path of a step, which the next forward passes take."""
        self._runs = self.schedule.path(step, self._seed, *self._names)
        self._scales = self.schedule.scales(step)
        self.steps += 1
        self.ran = [had + runs for had, runs in zip(self.ran, self._runs, strict=True)]
        tally = self._stages.setdefault(self.schedule.stage(step), _Tally(len(self.found)))
        tally.add(self._runs, self.schedule.chances(step))
        return self._runs

    def stages(self, shares: Sequence[float]) -> list[dict[str, float]]:
        """What every stage cost, planned and drawn, as :class:`WarmStartReport` tells it.

        Args:
            shares: each block's share of the whole net's operations.
        """
        return [
            {
                "end": stage.end,
                "length": stage.length,
                "steps": tally.steps,
                "planned": tally.work(tally.expected, shares),
                "counted": tally.work(tally.ran, shares),
            }
            for stage, tally in self._stages.items()
        ]

    def work(self, shares: Sequence[float]) -> float:
        """Operations of the drawn paths over those of the whole net.

        Args:
            shares: each block's share of the whole net's operations.
        """
        if self.steps == 0:
            return 1.0
        left_out = sum(
            share * (1 - ran / self.steps) for share, ran in zip(shares, self.ran, strict=True)
        )
        return 1.0 - left_out

    def everything(self) -> None:
        """Let every block run unscaled, as in evaluation."""
        self._runs = [True] * len(self.found)
        self._scales = [1.0] * len(self.found)

    @contextmanager
    def applied(self) -> Iterator[Paths]:
        """Hook the blocks; every block runs until a path is chosen."""
        handles = []
        self.everything()
        for number, block in enumerate(self.found):
            block.module.__dict__["forward"] = self._skipping(number, block.module)
            handles += [end.register_forward_hook(self._scaling(number)) for end in block.ends]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for block in self.found:
                del block.module.__dict__["forward"]

    def _skipping(self, number: int, module: nn.Module) -> Callable[..., Any]:
        plain = type(module).forward.__get__(module)

        def forward(x: Any, *others: Any, **more: Any) -> Any:
            return plain(x, *others, **more) if self._runs[number] else x

        return forward

    def _scaling(self, number: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def scaled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            scale = self._scales[number]
            return None if scale == 1.0 else output * scale

        return scaled


def block_shares(
    model: nn.Module, inputs: Inputs, labels: Tensor, loss: LossFunction, config: SubnetworkConfig
) -> tuple[float, ...]:
    """Each block's share of a training step's operations, counted with and without it.

    Args:
        model: the net, which is not changed.
        inputs: a small batch on its device.
        labels: its labels.
        loss: mean loss of (logits, labels).
        config: which blocks.
    """
    copied = copy.deepcopy(model)
    blocks = residual_blocks(copied, config.blocks)
    whole, _ = flops_per_sample(copied, inputs, labels, loss)
    shares = []
    for block in blocks:
        block.module.__dict__["forward"] = lambda x, *others, **more: x
        without, _ = flops_per_sample(copied, inputs, labels, loss)
        del block.module.__dict__["forward"]
        shares.append((whole - without) / whole)
    return tuple(shares)
