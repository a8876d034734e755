"""Which workers are merged, and with which weights: the soups, by name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from pydantic import field_validator

from lipt_cords.base.options import StrictModel
from lipt_cords.base.registry import Registry
from lipt_cords.warmstart.report import WorkerSummary

Members = Sequence[int] | Mapping[int, float]
"""Workers in a soup, all alike or with their weights."""
Trial = Callable[[Sequence[int]], float]
"""Held-out accuracy of the average of some workers."""
SoupFunction = Callable[
    [Sequence[WorkerSummary]], Members | Generator[Sequence[int], float, Members]
]
SOUPS: Registry[SoupFunction] = Registry(
    "soup", takes=("workers",), needs_validation=False, reason=""
)
"""``needs_validation``: whether it reads held-out accuracies. ``reason``: why a worker is left out,
for the report."""


def register_soup(
    name: str, *, needs_validation: bool = False, reason: str = ""
) -> Callable[[SoupFunction], SoupFunction]:
    """Register a soup under a name.

    The function takes the :class:`~lipt_cords.warmstart.report.WorkerSummary` of every worker with
    finite weights, and returns the numbers of those in the soup, or their weights by number. It may
    be a generator: every ``yield [numbers]`` gives the held-out accuracy of their average. All
    ranks run it, so it must draw no random numbers.

    Args:
        name: must be free.
        needs_validation: it reads ``accuracy`` of workers or tries soups, so that a warm start
            without held-out data is refused.
        reason: why a worker is left out, for the report.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    return SOUPS.register(name, needs_validation=needs_validation, reason=reason)


class SoupOptions(StrictModel):
    """How workers become one model."""

    soup: str = "uniform"
    """How workers are merged: ``uniform`` averages all, ``weighted`` by the size of their shards,
    ``greedy`` while held-out accuracy does not fall; or a registered soup of your own."""

    @field_validator("soup")
    @classmethod
    def _known_soup(cls, value: str) -> str:
        return SOUPS.entry(value).name


@register_soup("uniform")
def uniform(workers: Sequence[WorkerSummary]) -> Members:
    """All workers, with equal weights (Wortsman et al., Model soups, ICML 2022)."""
    return [one.worker for one in workers]


@register_soup("weighted")
def weighted(workers: Sequence[WorkerSummary]) -> Members:
    """All workers, weighted by the size of their shards."""
    return {one.worker: one.samples for one in workers}


@register_soup("greedy", needs_validation=True, reason="held-out accuracy of the soup would fall")
def greedy(workers: Sequence[WorkerSummary]) -> Generator[Sequence[int], float, Members]:
    """Workers in order of accuracy, the best first, each only if held-out accuracy does not fall.

    Source: Wortsman et al., Model soups, ICML 2022.
    """
    ranking = sorted(workers, key=lambda one: (-(one.accuracy or 0), one.worker))
    kept: list[int] = []
    best = -math.inf
    for one in ranking:
        reached = yield [*kept, one.worker]
        if reached >= best:
            kept.append(one.worker)
            best = reached
    return kept


@dataclass(frozen=True)
class Chosen:
    """The workers in a soup.

    Attributes:
        summaries: of all workers; those left out have a reason.
        weights: of every worker in the soup, by its number.
    """

    summaries: list[WorkerSummary]
    weights: dict[int, float]


def choose(workers: Sequence[WorkerSummary], soup: str, trial: Trial) -> Chosen:
    """Choose workers for the merge by a soup's name.

    Args:
        workers: of all workers; those not ``kept`` cannot be merged.
        soup: its name.
        trial: gives held-out accuracies of trial soups.

    Raises:
        ValueError: the soup names unknown workers or none, or gives weights that are not positive.
    """
    entry = SOUPS.entry(soup)
    able = [one for one in workers if one.kept]
    found = entry.make(able) if able else []
    if isinstance(found, Generator):
        found = _driven(entry.name, found, trial)
    if not isinstance(found, Mapping):
        found = _numbers(entry.name, found)
    weights: dict[int, float] = {}
    weights.update(found if isinstance(found, Mapping) else dict.fromkeys(found, 1))
    _check(entry.name, weights, [one.worker for one in able])
    reason = entry.facts["reason"] or f"left out by soup {entry.name!r}"
    summaries = [
        replace(one, kept=False, reason=reason) if one.kept and one.worker not in weights else one
        for one in workers
    ]
    return Chosen(summaries, weights)


def _driven(name: str, soup: Generator[Sequence[int], float, Members], trial: Trial) -> Members:
    """Answer a soup's trials until it returns."""
    try:
        tried = next(soup)
        while True:
            tried = soup.send(trial(_numbers(name, tried)))
    except StopIteration as end:
        members: Members = end.value
        return members


def _numbers(name: str, found: Any) -> list[int]:
    """The workers that a soup names, each once."""
    try:
        numbers = [operator.index(one) for one in found if not isinstance(one, bool)]
        whole = len(numbers) == len(found) == len(set(numbers))
    except TypeError:
        whole = False
    if not whole:
        raise ValueError(
            f"soup {name!r} returned {str(found)[:80]}: expected the numbers of workers "
            "(one.worker), each once, or a mapping of them to weights"
        )
    return numbers


def _check(name: str, weights: Mapping[Any, Any], able: Sequence[int]) -> None:
    if strange := [worker for worker in weights if worker not in able]:
        raise ValueError(f"soup {name!r} names worker {strange[0]!r}: expected some of {able}")
    if able and not weights:
        raise ValueError(f"soup {name!r} names no worker: expected at least one of {able}")
    for worker, weight in weights.items():
        if not (isinstance(weight, Real) and 0 < float(weight) < math.inf):
            raise ValueError(
                f"soup {name!r} gives worker {worker} the weight {weight!r}: expected a positive "
                "number"
            )
