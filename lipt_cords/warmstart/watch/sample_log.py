"""Collects what the workers of all rounds saw of their samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipt_cords.models.state import State
from lipt_cords.selectors.dynamics import TrainingDynamics
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.watch.watcher import Watcher
from lipt_cords.warmstart.worker_results import FinishedWorker
from lipt_cords.warmstart.workers.visits import Visits


class SampleLog(Watcher):
    """The log of all samples, equal on every rank; it is stored with every merge.

    Visits of a worker that was lost or is not finite are not known, and count as none.

    Args:
        samples: N, of the training set.
        known: the log of an earlier fit on them, to continue.
    """

    name = "samples"

    def __init__(self, samples: int, known: TrainingDynamics | None = None) -> None:
        visits = 0 if known is None else known.margins.shape[1]
        self._seen = torch.full((2, samples, visits), torch.nan)
        self._counts = torch.zeros(samples, dtype=torch.int64)
        if known is not None:
            seen = torch.stack([known.probabilities, known.margins])
            first = min(samples, len(known.counts))  # a data set may be longer, or end in no shard
            self._seen[:, :first] = seen[:, :first]
            self._counts[:first] = known.counts[:first]

    def clear(self, samples: Tensor) -> None:
        """Drop all visits of some samples."""
        self._seen[:, samples] = torch.nan
        self._counts[samples] = 0

    def add(self, visits: Visits) -> None:
        """Append the visits of a worker in a round."""
        samples = visits.samples.long()
        order = samples.argsort(stable=True)
        ordered = samples[order]
        places = torch.arange(len(order))
        first = torch.searchsorted(ordered, ordered)  # of the same sample
        columns = self._counts[ordered] + places - first
        self._seen = _widened(self._seen, int(columns.max()) + 1)
        seen = torch.stack([visits.probabilities, visits.margins])
        self._seen[:, ordered, columns] = seen[:, order]
        self._counts += torch.bincount(samples, minlength=len(self._counts))

    def dynamics(self) -> TrainingDynamics:
        """The log so far, a copy without columns that no sample has."""
        most = int(self._counts.max())
        probabilities, margins = self._seen[:, :, :most].unbind()
        return TrainingDynamics(probabilities.clone(), margins.clone(), self._counts.clone())

    def after_merge(self, run: Run, workers: Sequence[FinishedWorker]) -> None:
        for one in workers:
            if one.visits is not None:
                self.add(one.visits)

    def state(self) -> tuple[dict[str, State], dict[str, Any]]:
        return {"log": {"seen": self._seen, "counts": self._counts}}, {}

    def restore(self, run: Run, tensors: dict[str, State], values: dict[str, Any]) -> None:
        self._seen, self._counts = tensors["log"]["seen"], tensors["log"]["counts"]


def _widened(seen: Tensor, visits: int) -> Tensor:
    missing = visits - seen.shape[2]
    if missing <= 0:
        return seen
    return torch.cat([seen, seen.new_full((*seen.shape[:2], missing), torch.nan)], dim=2)
