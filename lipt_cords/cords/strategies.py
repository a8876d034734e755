"""The strategies of ``dss_args.type``: every registered selector, and CORDS's spellings of them."""

from __future__ import annotations

from lipt_cords.base.errors import unknown_name
from lipt_cords.selectors.base import SELECTORS

SELECTION_TYPES = {"GLISTER": "Supervised", "GradMatch": "PerClassPerGradient", "CRAIG": "PerClass"}
"""CORDS's strategies that have a ``selection_type``, and the one that their plain name means."""
FULL = "Full"
"""The strategy that trains on all data."""
SAME = {"AdaptiveRandom": "rs2"}
"""Other names of CORDS for one of our selectors."""
BRING_IN = (
    "A module of yours that registers it is brought in by imports: [MODULE] in the configuration, "
    "or --import MODULE"
)
"""What to do about a name that only another module knows."""


def strategies() -> tuple[str, ...]:
    """All strategies in the spelling of configurations and tables.

    >>> strategies()[:3], "GradMatch" in strategies()
    (('Full', 'AdaptiveRandom', 'Random'), True)
    """
    known = [(SELECTORS.entry(name).facts["spelling"] or name) for name in SELECTORS.names()]
    return (FULL, *SAME, *sorted(known, key=lambda name: (name != "Random", name.lower())))


def selector_for(strategy: str) -> str:
    """The name of the selector that a strategy stands for.

    Raises:
        ValueError: ``Full``, which has none.

    >>> selector_for("GradMatch"), selector_for("AdaptiveRandom")
    ('gradmatch', 'rs2')
    """
    if strategy == FULL:
        raise ValueError(f"dss_args.type is {FULL!r}, which selects nothing: name a selector")
    return SELECTORS.entry(SAME.get(strategy, strategy)).name


def fact_of(strategy: str, name: str) -> bool:
    """A fact of the selector that a strategy stands for; False for ``Full``."""
    return strategy != FULL and bool(SELECTORS.entry(selector_for(strategy)).facts[name])


def split_strategy(name: str) -> tuple[str, bool, bool]:
    """Take CORDS's spelling of a strategy apart: name, per batch, full-data warm-up.

    >>> split_strategy("GradMatchPB-Warm")
    ('GradMatch', True, True)

    Raises:
        ValueError: no such strategy; the nearest is suggested.
    """
    known = {strategy.lower(): strategy for strategy in strategies()}
    plain = name.lower()
    warm = plain.endswith("-warm") and plain not in known
    plain = plain.removesuffix("-warm") if warm else plain
    per_batch = plain.endswith("pb") and plain not in known
    plain = plain.removesuffix("pb") if per_batch else plain
    if plain in known:
        return known[plain], per_batch, warm
    spelt = [*known.values(), *(f"{name}PB" for name in SELECTION_TYPES)]
    error = unknown_name("strategy in dss_args.type", name, [*spelt, *(f"{s}-Warm" for s in spelt)])
    raise ValueError(f"{error} {BRING_IN}")
