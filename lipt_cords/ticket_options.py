"""Options of Early-Bird tickets: how many channels go, and when the search is over."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from lipt_cords.strict import StrictModel


class EarlyBirdConfig(StrictModel):
    """Early-Bird tickets (You et al., ICLR 2020): a smaller net, found early and then trained.

    >>> EarlyBirdConfig(ratio=0.5).window
    5
    """

    ratio: float = Field(0.3, ge=0, lt=1)
    """Share of the BatchNorm channels that goes; 0 looks for nothing and trains the given net."""
    epsilon: float = Field(0.1, ge=0, le=1)
    """The ticket is drawn once the newest mask differs from each of the others in the window in
    at most this share of the channels."""
    window: int = Field(5, ge=2)
    """Masks that are compared, the newest included."""
    every: int | None = Field(None, ge=1)
    """Steps between two masks. None: an epoch, as published; a warm start's common start, which
    is seldom ten epochs long, takes a twentieth of its steps where that is less."""
    l1: float = Field(1e-4, ge=0)
    """L1 penalty on BatchNorm's scales during the search, so that channels part into those that
    matter and those that do not."""
    latest: float = Field(0.5, gt=0, le=1)
    """Share of the training (of a warm start: of the common start, or of the rounds) after which
    the newest mask is taken, settled or not; the report tells."""
    vote: bool = False
    """In a warm start: workers search on their shards, and the merge of their scales is looked at
    after every round; needs ``rounds`` of 2 or more. Else the common start searches."""

    @field_validator("ratio", mode="before")
    @classmethod
    def _a_share(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not 0 <= value < 1:
            raise ValueError(f"ratio is a share from 0 to below 1, such as 0.3, received {value!r}")
        return value
