"""GLISTER's greedy searches in CORDS, each with budgets on which it hangs or crashes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any

from torch import Tensor

from lipt_cords.base.errors import unknown_name

GREEDY = ("Naive", "RGreedy", "Stochastic")


def is_number(value: Any) -> bool:
    """Whether a value is a real number, numpy's included, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_greedy(
    dss_args: Any, budget: int, train_loader: Any, val_loader: Any, counts: Tensor | None
) -> None:
    """Raise for a greedy search that would hang, crash or select too few samples.

    Args:
        dss_args: options of the loader, with ``greedy`` and ``selection_type``.
        budget: samples in the subset.
        train_loader: in order.
        val_loader: in order.
        counts: training samples of each class (C,) when selecting per class, else None.

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    greedy = dss_args["greedy"]
    if greedy not in GREEDY:
        raise unknown_name("greedy of GLISTERDataLoader", greedy, GREEDY)
    per_batch = dss_args["selection_type"] == "PerBatch"
    if per_batch and len(val_loader.dataset) < val_loader.batch_size:
        raise ValueError(
            f"GLISTER per batch needs a full validation batch: {len(val_loader.dataset)} samples, "
            f"batch_size {val_loader.batch_size}. Lower the val_loader's batch_size"
        )
    tasks = list(_greedy_tasks(budget, train_loader, per_batch, counts))
    if greedy == "RGreedy":
        rounds = dss_args["r"] if "r" in dss_args.keys() else None  # noqa: SIM118
        for _, task_budget in tasks:
            _check_rounds(rounds, task_budget)
    if greedy == "Stochastic":
        for size, task_budget in tasks:
            drawn, left = int(size / task_budget * math.log(100)), size - task_budget + 1
            if drawn > left:
                raise ValueError(
                    f"Stochastic greedy would draw {drawn} candidates where {left} are left (budget"
                    f" {task_budget} of {size} for one class or run): use greedy='Naive', "
                    "selector='fast', or another fraction"
                )


def _greedy_tasks(
    budget: int, train_loader: Any, per_batch: bool, counts: Tensor | None
) -> Iterator[tuple[int, int]]:
    """Candidates and budget of every greedy run that CORDS would make."""
    size = len(train_loader.dataset)
    if counts is not None:
        for count in counts.tolist():
            yield count, math.ceil(budget * count / size)
    elif per_batch:
        yield len(train_loader), math.ceil(budget / train_loader.batch_size)
    else:
        yield size, budget


def _check_rounds(r: Any, budget: int) -> None:
    """CORDS picks ``int(budget / r)`` a round until it has ``budget``; weights stop there."""
    if not is_number(r) or r < 1 or r != int(r):
        raise ValueError(f"dss_args.r must be a number of rounds from 1, received {r!r}")
    if r > budget:
        raise ValueError(
            f"RGreedy with r={r} rounds and a budget of {budget} never ends: set r to at most "
            f"{budget} (per class or per batch the budget is divided too)"
        )
    if budget % int(budget / r):
        fitting = [n for n in range(1, budget + 1) if budget % int(budget / n) == 0]
        nearest = min(fitting, key=lambda n: abs(n - r))
        raise ValueError(
            f"RGreedy with r={r} rounds of {int(budget / r)} overshoots the budget of {budget} and "
            f"gives fewer weights than indices: set r={nearest}"
        )
