"""A trial training on a candidate subset: the evidence that a selector can ask for."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.batches import dataset_length
from lipt_cords.randomness import derive_seed
from lipt_cords.selectors import Selection
from lipt_cords.training import train_on_subset


class SubsetPilot:
    """Train a copy of a net on candidate subsets, and tell what each is worth.

    Given as ``pilot`` to ``select("stratified", cut="auto")``. What it costs is on its bill: each
    call trains once, on a draw of its own, so that the training that follows is not the one that
    was judged.

    Args:
        model: as the training to come will start; it stays as it is.
        train_dataset: the pool.
        val_dataset: held-out data that judge.
        seed: of the trial trainings.
        **options: of :func:`lipt_cords.training.train_on_subset`; the training to come should
            have the same, or the pilot answers another question.

    Raises:
        ValueError: validation data that are empty.

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.eye(4).repeat(5, 1), torch.arange(20) % 4)
    >>> pilot = SubsetPilot(nn.Linear(4, 4), data, data, epochs=3, batch_size=4, device="cpu")
    >>> worth, passes = pilot(torch.arange(8))
    >>> passes, pilot.passes
    (24, 24)
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any],
        val_dataset: Dataset[Any],
        *,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if dataset_length(val_dataset) == 0:
            raise ValueError("a pilot judges by validation accuracy, and val_dataset is empty")
        self._model, self._train, self._val = model, train_dataset, val_dataset
        self._options = {**options, "seed": derive_seed(seed, "pilot")}
        self.passes, self.seconds = 0, 0.0
        """Spent so far on training."""

    def __call__(self, indices: Tensor) -> tuple[float, int]:
        """Validation accuracy that training on a subset reaches, and the sample-passes spent."""
        trained = train_on_subset(
            copy.deepcopy(self._model),
            self._train,
            Selection(indices, torch.ones(len(indices))),
            val_dataset=self._val,
            **{"eval_every": self._options.get("epochs", 20), **self._options},
        )
        self.passes += trained.costs.training_passes
        self.seconds += trained.costs.training_seconds
        worth = trained.val_accuracy
        return (0.0 if worth is None else worth), trained.costs.training_passes
