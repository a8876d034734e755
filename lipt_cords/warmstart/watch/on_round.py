"""Calls the user's function after every merge."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.report import OnRound
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.watch.watcher import Watcher
from lipt_cords.warmstart.worker_results import FinishedWorker


class RoundCallback(Watcher):
    """Calls ``on_round`` on rank 0; its exceptions end the run on every rank.

    Args:
        ranks: the processes.
        call: the user's function, or None.
    """

    def __init__(self, ranks: Ranks, call: OnRound | None) -> None:
        self._ranks, self._call = ranks, call

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        self._ranks.on_main(lambda: self._announce(run), "on_round")

    def _announce(self, run: Run) -> None:
        if self._call is not None:
            # Copies, because the next round starts from these weights.
            state = {name: value.clone() for name, value in run.whole(run.start).items()}
            self._call(copy.deepcopy(run.reports[-1]), state)
