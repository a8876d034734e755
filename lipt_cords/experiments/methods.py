"""The contenders of a comparison, by name: a warm-up, then a way to choose subsets.

``WARMUP+SELECTION/HOW@SPENDS``, of which a part may be left out: ``lipt``, ``full=5+craig``,
``lipt-rounds+stratified/scratch/static``, ``rs2@total``. A method trains on subsets of one
fraction for as many epochs as every other, unless it spends what LiPT spends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lipt_cords.base.errors import unknown_name
from lipt_cords.cords.strategies import BRING_IN, fact_of, strategies

WARMUPS = {
    "none": "",
    "full": "full data",
    "full-annealed": "full data, annealed",
    "lipt": "LiPT",
    "lipt-rounds": "LiPT in rounds",
    "lipt-once": "LiPT, one merge",
    "one-worker": "one worker",
    "one-worker-annealed": "one worker, annealed",
    "one-worker-total": "one worker, all of LiPT's passes",
}
"""Warm-ups, and what a table calls them."""
COUNTED = ("full", "full-annealed")
"""Warm-ups that take a number of epochs, as in ``full=5``."""
LIPT = ("lipt", "lipt-rounds", "lipt-once")
SPENDING = {"critical-path": "equal waiting", "total": "equal passes"}
"""What a method spends as LiPT does, and what a table calls it."""
DEFAULT_METHODS = (
    "random", "rs2", "full", "lipt", "one-worker", "rs2@critical-path", "rs2@total",
    "full-data@total",
)  # fmt: skip
UNTRAINED_METHODS = ("random", "rs2", "none+selector/static", "full-data")
"""The same where the strategy needs no trained model."""
SHORT = {
    "random": ("none", "random"),
    "rs2": ("none", "rs2"),
    "full-data": ("none", "full"),
}
"""Names that stand for a warm-up and a selection; a warm-up alone selects by the strategy."""


@dataclass(frozen=True)
class Method:
    """A warm-up, a selection, and what follows.

    Attributes:
        name: as asked for, such as ``lipt`` or ``lipt+random``.
        warmup: a key of ``WARMUPS``.
        selection: one of :func:`selections`; ``selector`` is the configuration's strategy.
        epochs: of a full-data warm-up, where the name says how many.
        scratch: the warm model selects, and training begins with the net as it was.
        every: epochs between two selections; 0 selects once, None is the configuration's.
        spends: None for as many subset epochs as every other method, or a key of ``SPENDING``.
    """

    name: str
    warmup: str
    selection: str
    epochs: int | None = None
    scratch: bool = False
    every: int | None = None
    spends: str | None = None

    @classmethod
    def parse(cls, name: str) -> Method:
        """Read a method's name.

        >>> Method.parse("lipt").selection, Method.parse("one-worker+rs2").selection
        ('selector', 'rs2')
        >>> Method.parse("full=5+craig/scratch/static")
        Method(name='full=5+craig/scratch/static', warmup='full', selection='craig', epochs=5, \
scratch=True, every=0, spends=None)

        Raises:
            ValueError: an unknown name; the nearest one is suggested.
        """
        what, at, spends = name.partition("@")
        what, *how = what.split("/")
        warmup, plus, selection = what.partition("+")
        if not plus:
            warmup, selection = SHORT.get(warmup, (warmup, "selector"))
        warmup, equals, epochs = warmup.partition("=")
        given: dict[str, Any] = {}
        if equals and warmup in COUNTED and epochs.isdecimal() and int(epochs) > 0:
            given["epochs"] = int(epochs)
        elif equals:
            raise _unknown(name)
        for word in how:
            key, separator, value = word.partition("=")
            if word == "scratch" and warmup != "none":
                given["scratch"] = True
            elif word == "static":
                given["every"] = 0
            elif key == "every" and separator and value.isdecimal() and int(value) > 0:
                given["every"] = int(value)
            else:
                raise _unknown(name)
        spends_known = not at or spends in SPENDING
        if warmup not in WARMUPS or selection not in selections() or not spends_known:
            raise _unknown(name)
        return cls(name, warmup, selection, spends=spends or None, **given)

    def label(self, strategy: str) -> str:
        """The method in words, for tables and plots.

        >>> Method.parse("lipt").label("GLISTER"), Method.parse("rs2").label("GLISTER")
        ('GLISTER after LiPT', 'RS2')
        >>> Method.parse("full=5+craig/static").label("GLISTER")
        'CRAIG, once, after full data (5 epochs)'
        >>> Method.parse("none+selector/static").label("Covering")
        'Covering'
        """
        chooser = self.strategy(strategy)
        parts = [{"Random": "random", "Full": "all data"}.get(chooser, chooser)]
        # Without a model the subset is the same however often it is chosen.
        if self.every is not None and not (self.warmup == "none" and fact_of(chooser, "untrained")):
            parts.append(f"every {self.every} epochs" if self.every else "once")
        if self.warmup != "none":
            count = self.epochs or 0
            epochs = f" ({count} epoch{'s' * (count > 1)})" if count else ""
            after = f"after {WARMUPS[self.warmup]}{epochs}"
            if len(parts) == 1:
                parts = [f"{parts[0]} {after}"]
            else:
                parts.append(after)
        if self.scratch:
            parts.append("from scratch")
        if self.spends:
            parts.append(SPENDING[self.spends])
        return ", ".join(parts)

    def strategy(self, configured: str) -> str:
        """The strategy that chooses, by its name in ``dss_args.type``."""
        return selections()[self.selection] or configured


def selections() -> dict[str, str]:
    """What may stand behind ``+``, and the strategy that it names; none for ``selector``."""
    return {"selector": "", **{name.lower(): name for name in strategies()}}


def parse_methods(names: Iterable[str]) -> list[Method]:
    """Read the names of a comparison's methods.

    Raises:
        ValueError: none, one twice, or an unknown one.
    """
    methods = [Method.parse(name) for name in names]
    if not methods:
        raise ValueError("a comparison needs at least one method, such as lipt")
    twice = {method.name for method in methods if methods.count(method) > 1}
    if twice:
        raise ValueError(f"methods named twice: {', '.join(sorted(twice))}; name each once")
    return methods


def _unknown(name: str) -> ValueError:
    known = [*SHORT, *WARMUPS, *(f"{w}+{s}" for w in WARMUPS for s in selections())]
    known += [f"{plain}@{cost}" for plain in ("random", "rs2", "lipt") for cost in SPENDING]
    error = unknown_name("method", name, known)
    near = str(error).rpartition("Did you mean ")[2] if "Did you mean" in str(error) else ""
    hint = f"Did you mean {near} " if near else ""
    return ValueError(
        f"unknown method {name!r}. {hint}Expected WARMUP+SELECTION, with /scratch, /static or "
        f"/every=L and @critical-path or @total behind it as needed; warm-ups are "
        f"{', '.join(WARMUPS)} "
        f"(full=K for K epochs), selections {', '.join(selections())}; short names "
        f"are {', '.join(SHORT)}. {BRING_IN}"
    )
