"""Which residual blocks run at which step: stages, paths, probabilities and factors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from pydantic import Field, field_validator

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.options import StrictModel
from lipt_cords.base.randomness import generator

Draw = Literal["exact", "bernoulli"]


Scaling = Literal["none", "sqrt", "inverse"]


Control = Literal["none", "constant", "stochastic-depth"]


class SubnetworkConfig(StrictModel):
    """Progressive subnetworks (RaPTr, Panigrahi et al., arXiv 2402.05913) for the workers.

    >>> SubnetworkConfig(lengths=(6, 8, 10, 12)).paths
    'exact'
    """

    lengths: tuple[int, ...] | None = None
    """Blocks of a path in each stage, including those always kept; the last stage trains the whole
    net. None: 1/2, 2/3, 5/6 and all of the blocks that can be left out."""
    shares: tuple[float, ...] | None = None
    """Share of a worker's steps that each stage takes; None: equal ones."""
    always: tuple[int, ...] | None = None
    """Numbers, from 0, of the blocks that are in every path; None: the first and the last."""
    paths: Draw = "exact"
    """``exact``: every path has the stage's length, so its cost is known; ``bernoulli``: every
    block is drawn independently, and this is the average length."""
    scaling: Scaling = "sqrt"
    """Factor of the residual branches of the blocks that run, for L blocks and a path of l:
    ``none`` 1, ``sqrt`` sqrt(L / l), ``inverse`` L / l."""
    blocks: tuple[str, ...] | None = None
    """Names of the blocks in ``model.named_modules()``; None finds them."""
    control: Control = "none"
    """Controls to compare RaPTr with: ``constant`` allows lengths that do not end at the whole net,
    ``stochastic-depth`` (Huang et al., 2016) drops later blocks more often, in all steps."""
    survival: float = Field(0.5, gt=0, le=1)
    """With stochastic depth: the probability of the last block to run; that of the first is near
    1."""

    @field_validator("paths", "scaling", "control", mode="before")
    @classmethod
    def _known_name(cls, value: Any, info: Any) -> Any:
        valid = get_args(cls.model_fields[info.field_name].annotation)
        if value not in valid:
            raise unknown_name(f"subnetwork {info.field_name}", value, valid)
        return value

    @field_validator("lengths", "shares", "always", "blocks", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        if value is None or isinstance(value, tuple):
            return value
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"expected a list, received {value!r}")
        return tuple(value)

    @field_validator("lengths")
    @classmethod
    def _some_lengths(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1):
            raise ValueError(f"lengths must be path lengths of at least 1, received {value}")
        return value

    @field_validator("shares")
    @classmethod
    def _whole(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (min(value, default=0) <= 0 or abs(sum(value) - 1) > 1e-6):
            raise ValueError(f"shares must be positive and add up to 1, received {value}")
        return value


STAGES = (1 / 2, 2 / 3, 5 / 6, 1)
"""Path lengths of the stages, relative to the number of blocks: 6-8-10-12 of 12, as published."""


@dataclass(frozen=True)
class Stage:
    """A sequence of steps with one expected path length.

    Attributes:
        end: the share of all steps after which it ends.
        length: blocks of a path, including those always kept.
    """

    end: float
    length: int


class PathSchedule:
    """Which blocks run at a step: a function of only the step, the seed and the names.

    Args:
        config: the options.
        blocks: how many blocks can be left out, L.
        steps: of the whole schedule.

    Raises:
        ValueError: stages that do not end at full length, or a path with fewer blocks than are
            always kept.
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
        if lengths is None and len(self.always) == most:
            raise ValueError(
                f"subnetwork would leave nothing out: all of the net's {most} blocks with an "
                "identity shortcut are always kept (the first and the last, unless "
                "subnetwork.always says otherwise); take a deeper net, set always, or leave "
                "subnetwork out"
            )
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
