"""Options of progressive subnetworks: how long paths are, who is on them, and what is rescaled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from lipt_cords.errors import unknown_name
from lipt_cords.strict import StrictModel

Draw = Literal["exact", "bernoulli"]
Scaling = Literal["none", "sqrt", "inverse"]
Control = Literal["none", "constant", "stochastic-depth"]


class SubnetworkConfig(StrictModel):
    """Progressive subnetworks (RaPTr, Panigrahi et al., arXiv 2402.05913) for the workers.

    >>> SubnetworkConfig(lengths=(6, 8, 10, 12)).paths
    'exact'
    """

    lengths: tuple[int, ...] | None = None
    """Blocks of a path in each stage, those always kept included; the last trains the whole net.
    None: 1/2, 2/3, 5/6 and all of the blocks that can be left out."""
    shares: tuple[float, ...] | None = None
    """Share of a worker's steps that each stage takes; None: equal ones."""
    always: tuple[int, ...] | None = None
    """Numbers of the blocks that every path has, from 0; None: the first and the last."""
    paths: Draw = "exact"
    """``exact``: every path has the stage's length, so its cost is known; ``bernoulli``: every
    block is drawn for itself, and the length is that on average."""
    scaling: Scaling = "sqrt"
    """Factor of the residual branches of the blocks that run, for L blocks and a path of l:
    ``none`` 1, ``sqrt`` sqrt(L / l), ``inverse`` L / l."""
    blocks: tuple[str, ...] | None = None
    """Names of the blocks in ``model.named_modules()``; None finds them."""
    control: Control = "none"
    """What RaPTr is compared with: ``constant`` keeps to lengths that need not end at the whole
    net, ``stochastic-depth`` (Huang et al., 2016) drops later blocks more often, in all steps."""
    survival: float = Field(0.5, gt=0, le=1)
    """Of the last block, under stochastic depth: the probability to run; the first's is near 1."""

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
