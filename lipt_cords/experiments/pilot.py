"""A trial training on a candidate subset: the evidence that a selector can ask for."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.randomness import derive_seed
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.strategies import FULL, selector_for
from lipt_cords.data.batches import dataset_length
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.choose import per_sample_loss, schedule_of
from lipt_cords.models.copies import copy_model
from lipt_cords.selectors.base import SELECTORS, Selection, selector_options
from lipt_cords.selectors.trials import candidate_cuts
from lipt_cords.training.scheduler import at_every_step
from lipt_cords.training.subset import train_on_subset


def pilot_share(config: RunConfig) -> float:
    """The length of a trial, as a share of the run's epochs on subsets.

    Raises:
        ValueError: ``dss_args.options.pilot`` is out of range, or the strategy takes none.
    """
    dss, share = config.dss_args, config.dss_args.options["pilot"]
    if dss.strategy == FULL or "pilot" not in selector_options(selector_for(dss.strategy)):
        raise ValueError(
            f"dss_args.options.pilot is for Stratified and Covering, whose cut it finds; "
            f"{dss.strategy} takes none: leave it out"
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(
            "dss_args.options.pilot is the length of a trial as a share of the run's epochs on "
            f"subsets, in (0, 1], received {share!r}: take 1, as short trials favour easy subsets"
        )
    return float(share)


def pilot_epochs(config: RunConfig) -> int:
    """Epochs of one trial of a run."""
    return max(1, round(pilot_share(config) * schedule_of(config).subset_epochs))


def trial_passes(config: RunConfig, size: int) -> int:
    """Sample-passes of all trials of a run whose subsets have that size, before it begins."""
    dss = config.dss_args
    if "pilot" not in dss.options:
        return 0
    schedule = schedule_of(config)
    trained = dss.warm_start is not None or schedule.select_after > 0
    first = schedule.select_after if trained else dss.select_every
    times = sum(map(schedule.selects, range(first, schedule.num_epochs)))
    return times * _trials(config) * pilot_epochs(config) * size


def _trials(config: RunConfig) -> int:
    """How many subsets one selection tries; a selector without ``pilot_cuts`` tries one."""
    dss = config.dss_args
    if dss.options.get("cut", "auto") != "auto":
        return 0
    takes = inspect.signature(SELECTORS[selector_for(dss.strategy)]).parameters
    cuts = takes["pilot_cuts"].default if "pilot_cuts" in takes else ()
    return len(candidate_cuts(dss.options.get("pilot_cuts", cuts)))


def pilot_of(config: RunConfig, splits: DataSplits, model: nn.Module) -> SubsetPilot:
    """The trial that a run's configuration asks for, with the run's own net and options.

    Args:
        config: the run.
        splits: its data; the validation part judges.
        model: as the training to come starts.
    """
    given, optimizer = config.train_args, config.optimizer
    return SubsetPilot(
        model,
        splits.train,
        splits.val,
        epochs=pilot_epochs(config),
        batch_size=config.dataloader.batch_size,
        optimizer=optimizer.model_dump(),
        schedule=at_every_step(config.scheduler, optimizer.type).over_epochs(pilot_share(config)),
        loss=per_sample_loss(config),
        precision=given.precision,
        memory_format=given.memory_format,
        device=str(next(model.parameters()).device),
        seed=given.seed,
    )


class SubsetPilot:
    """Train a copy of a net on candidate subsets, and measure what each is worth.

    Given as ``pilot`` to ``select("stratified", ...)`` or ``select("covering", ...)``. Each call
    trains once and adds to ``passes``. Its draws are its own, so that the training that follows is
    not the one that was judged.

    Args:
        model: as the training to come will start; it stays as it is.
        train_dataset: the pool.
        val_dataset: held-out data that judge.
        seed: of the trial trainings.
        **options: of :func:`~lipt_cords.training.subset.train_on_subset`; the training to
            come should have the same, or the pilot does not predict it.

    Raises:
        ValueError: validation data that are empty.

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.eye(4).repeat(5, 1), torch.arange(20) % 4)
    >>> pilot = SubsetPilot(nn.Linear(4, 4), data, data, epochs=3, batch_size=4, device="cpu")
    >>> worth, passes, error = pilot(torch.arange(8))
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
        self.passes = 0
        """Sample-passes of all trials so far."""

    def __call__(self, indices: Tensor) -> tuple[float, int, float]:
        """Validation accuracy of training on a subset, sample-passes spent, standard error."""
        trained = train_on_subset(
            copy_model(self._model),
            self._train,
            Selection(indices, torch.ones(len(indices))),
            val_dataset=self._val,
            **{"eval_every": self._options.get("epochs", 20), **self._options},
        )
        self.passes += trained.costs.training_passes
        worth = trained.val_accuracy or 0.0
        error = math.sqrt(worth * (1 - worth) / dataset_length(self._val))
        return worth, trained.costs.training_passes, error
