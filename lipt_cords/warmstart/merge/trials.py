"""Held-out accuracies of trial soups, whose workers are on several ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lipt_cords.models.state import State
from lipt_cords.warmstart.merge.fixed_point import FixedPointSum
from lipt_cords.warmstart.ranks.ranks import Ranks


class Trials:
    """Averages some workers on rank 0 and evaluates them there; every rank gets the accuracy.

    Sums of the last trial, and of the workers that it was built on, are kept, so that adding one
    worker sends one state to rank 0.

    Args:
        ranks: the processes.
        origin: what all workers started from.
        owners: the rank that holds each worker's state.
        state_of: returns the state of a worker of this rank.
        largest: bounds of every worker's changes; see :class:`FixedPointSum`.
        evaluate: held-out accuracy of a state; called on rank 0.
    """

    def __init__(
        self,
        ranks: Ranks,
        origin: State,
        owners: Mapping[int, int],
        state_of: Callable[[int], State],
        largest: Sequence[Tensor],
        evaluate: Callable[[State], float],
    ) -> None:
        self._ranks, self._origin, self._owners = ranks, origin, owners
        self._state_of, self._evaluate, self._largest = state_of, evaluate, largest
        self._sums: dict[frozenset[int], FixedPointSum] = {}  # most soups try nothing

    def __call__(self, workers: Sequence[int]) -> float:
        """Held-out accuracy of the average of some workers.

        Raises:
            ValueError: no workers, or unknown ones.
        """
        wanted = frozenset(workers)
        if not wanted or not wanted <= self._owners.keys():
            raise ValueError(
                f"a soup tried workers {sorted(wanted)}: expected some of {sorted(self._owners)}"
            )
        if not self._sums:
            largest = torch.stack(list(self._largest)).amax(0)
            nothing = FixedPointSum(self._origin, len(self._owners), largest, wide=True)
            self._sums[frozenset()] = nothing
        base = max((known for known in self._sums if known <= wanted), key=len)
        total = self._sums[base].clone() if self._ranks.is_main else self._sums[base]
        step = f"the trial of workers {sorted(wanted)}"
        sent = [self._to_main(worker, step) for worker in sorted(wanted - base)]

        def evaluate() -> float:
            for state in sent:
                if state is not None:
                    total.add(state)
            return self._evaluate(total.mean(total.total, len(wanted), len(wanted)))

        reached = self._ranks.on_main(evaluate, step)
        self._sums = {frozenset(): self._sums[frozenset()], base: self._sums[base], wanted: total}
        return reached

    def _to_main(self, worker: int, step: str) -> State | None:
        owner = self._owners[worker]
        return self._ranks.to_main(
            partial(self._state_of, worker), owner, self._origin, f"worker {worker} for {step}"
        )
