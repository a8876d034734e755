"""Ends the rounds early."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.watch.stop_rule import stopped_after
from lipt_cords.warmstart.watch.watcher import Watcher
from lipt_cords.warmstart.worker_results import FinishedWorker


class EarlyStop(Watcher):
    """Ends the rounds by ``stop_when``.

    With the schedule ``wsd`` a third of the rounds so far follows, in which the rate falls.

    Args:
        config: the options.
    """

    def __init__(self, config: WarmStartConfig) -> None:
        self._config = config

    def before_first_round(self, run: Run) -> None:
        self._decide(run)

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        self._decide(run)

    def _decide(self, run: Run) -> None:
        config = self._config
        if config.stop_when is None:
            return
        stopped = stopped_after(config.stop_when, run.reports)
        if stopped is None:
            return
        more = math.ceil(stopped / 3) if config.schedule == "wsd" else 0
        run.rounds = min(config.rounds, stopped + more)
        run.decay = None if run.rounds == config.rounds else (stopped, run.rounds)
