"""The names of strategies: ours, and CORDS's spellings of them."""

from __future__ import annotations

from lipt_cords.base.errors import unknown_name

STRATEGIES = (
    "Full", "Random", "AdaptiveRandom", "RS2", "GLISTER", "GradMatch", "CRAIG",
    "Importance", "Stratified", "Curriculum", "GraNd", "EL2N",
)  # fmt: skip
FRESH = ("RS2", "Curriculum")
"""Strategies that take a new subset in every epoch, whatever ``select_every`` says."""
SELECTION_TYPES = {"GLISTER": "Supervised", "GradMatch": "PerClassPerGradient", "CRAIG": "PerClass"}


def split_strategy(name: str) -> tuple[str, bool, bool]:
    """Take CORDS's spelling of a strategy apart: name, per batch, full-data warm-up.

    >>> split_strategy("GradMatchPB-Warm")
    ('GradMatch', True, True)

    Raises:
        ValueError: a strategy that is not run here.
    """
    plain = name.lower()
    warm = plain.endswith("-warm")
    plain = plain.removesuffix("-warm")
    per_batch = plain.endswith("pb")
    plain = plain.removesuffix("pb")
    for strategy in STRATEGIES:
        if strategy.lower() == plain:
            return strategy, per_batch, warm
    spelt = [*STRATEGIES, *(f"{name}PB" for name in SELECTION_TYPES)]
    raise unknown_name("strategy in dss_args.type", name, [*spelt, *(f"{s}-Warm" for s in spelt)])
