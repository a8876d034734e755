"""The registry of coverage methods."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipt_cords.base.registry import Registry

CoverageFunction = Callable[[Tensor, int, torch.Generator], Tensor]
"""From (n, F) float32 rows, a budget and a generator to positions (budget,), all different."""
COVERAGES: Registry[CoverageFunction] = Registry(
    "coverage method", takes=("rows", "budget", "draws"), random=False
)
"""``random``: another generator gives another choice."""


def register_coverage(
    name: str, *, random: bool = False
) -> Callable[[CoverageFunction], CoverageFunction]:
    """Make a function known as a coverage method, for ``covering(method=...)``.

    The function takes the rows of a group, (n, F) float32, how many to choose, and a generator for
    its draws; it returns different positions.

    Args:
        name: must be free.
        random: another generator gives another choice; of small subsets several are then compared.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.

    >>> @register_coverage("longest")
    ... def longest(rows, budget, draws):
    ...     "The longest rows."
    ...     return rows.norm(dim=1).argsort(descending=True)[:budget]
    >>> COVERAGES.unregister("longest")
    """
    return COVERAGES.register(name, random=random)
