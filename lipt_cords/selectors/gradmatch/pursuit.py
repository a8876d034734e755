"""The steps of a matching pursuit, apart from how its products are kept.

The best atom joins, all weights are solved anew, and atoms with negative weights leave. Two
supports serve it: one in float64 throughout, one that looks in float32 and decides in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DEPENDENT = 1e-10
"""An atom adds no direction when less than this fraction of its squared norm is new."""


@dataclass
class Pursuit:
    """What one pursuit found.

    Attributes:
        atoms: chosen atoms, in order of choice.
        weights: their weights, float64.
        residual: ||t - A_S x|| / ||t||, 0 for a zero target.
        stopped: ``"budget"``, ``"tolerance"``, ``"steps"``, or ``"exhausted"``: no atom left
            that is independent of the chosen ones and reduces the residual.
    """

    atoms: list[int] = field(default_factory=list)
    weights: Array = field(default_factory=lambda: np.zeros(0))
    residual: float = 1.0
    stopped: str = "budget"


class Support(Protocol):
    """The chosen atoms with their weights, and what the others can still add."""

    atoms: list[int]
    scale: float
    """The largest correlation that any atom could have with the target."""

    @property
    def weights(self) -> Array:
        """The least-squares weights of the chosen atoms."""
        ...

    def best(self) -> tuple[int, float]:
        """The atom that correlates most with the residual, among those not barred."""
        ...

    def bar(self, atom: int) -> None:
        """The atom may not be chosen until others are opened again."""
        ...

    def open_but(self, shut: list[int]) -> None:
        """Every allowed atom may be chosen but these."""
        ...

    def extend(self, atom: int) -> bool:
        """Add one atom; False, and nothing changes, if it depends on those before."""
        ...

    def remove(self, position: int) -> None:
        """Take one atom out and solve for the weights of the others."""
        ...

    def residual(self) -> float:
        """Relative residual norm."""
        ...


def follow(
    support: Support,
    budget: int,
    *,
    nonnegative: bool,
    tolerance: float,
    max_steps: int | None,
) -> Pursuit:
    """The pursuit itself, on a support without atoms; the arguments are those of `pursue`."""
    found = Pursuit()
    steps = max_steps or 10 * budget
    while len(support.atoms) < budget:
        if found.residual < tolerance:
            found.stopped = "tolerance"
            break
        if steps == 0:
            found.stopped = "steps"
            break
        pick, value = support.best()
        if not value > 1e-13 * support.scale:
            found.stopped = "exhausted"
            break
        support.bar(pick)
        if not support.extend(pick):
            continue  # depends on the chosen atoms: barred until one of them leaves
        steps -= 1
        weights = support.weights
        if nonnegative and weights[weights.argmin()] < 0:
            left = _drop_negative(support)
            # Every other atom may come again, but not the newest if it left at once: it would
            # join and leave for ever.
            support.open_but([*support.atoms, pick] if pick in left else support.atoms)
        found.residual = support.residual()
    found.atoms = list(support.atoms)
    found.weights = support.weights.copy()
    return found


def _drop_negative(support: Support) -> list[int]:
    """Remove the most negative atom and solve again, until none is negative."""
    left = []
    while support.atoms:
        position = int(support.weights.argmin())
        if not support.weights[position] < 0:
            break
        left.append(support.atoms[position])
        support.remove(position)
    return left
