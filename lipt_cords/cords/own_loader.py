"""A loader of CORDS that selects with our selectors: what it reads and what it returns.

Gradients are read in eval mode and without autograd; the network's training flags, buffers and
random state are as before afterwards. (CORDS reads them in train mode, where BatchNorm makes a
gradient depend on the batch that it was read in, and the statistics of its copy move.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lipt_cords.base.devices import nearest
from lipt_cords.base.randomness import generator, preserved_rng
from lipt_cords.cords.checks import warn_user
from lipt_cords.cords.own_selection import FastOptions, cords_weights, fast_selection
from lipt_cords.data.batches import remaining
from lipt_cords.data.open_files import nothing_left_open
from lipt_cords.data.source import BatchSource
from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.models.heads import model_device
from lipt_cords.selectors.report import SelectionReport

FORWARD_BATCHES = 4
"""Training batches in a forward pass: without autograd it holds one layer's activations at a time,
so what fits for training fits here."""


@dataclass(frozen=True)
class FastSelector:
    """What a loader needs to select fast, read off ``dss_args`` when it was built."""

    options: FastOptions
    device: torch.device

    def select(
        self,
        model: nn.Module,
        train_loader: DataLoader[Any],
        val_loader: DataLoader[Any],
        budget: int,
        epoch: int,
        forgotten: Collection[int] = (),
    ) -> tuple[list[int], Tensor, SelectionReport]:
        """Select for a loader of CORDS.

        Args:
            model: with the weights to select by; left as it is.
            train_loader: its data set is the pool; for ``PerBatch``, in the loader's order.
            val_loader: its data set is the validation set.
            budget: samples to choose.
            epoch: the loader's count.
            forgotten: samples that are not even read.

        Returns:
            Indices, one float32 weight an index on CORDS's scale, and the report.
        """
        options = self.options
        device = nearest(self.device, model_device(model))

        def read(source: BatchSource) -> LastLayerGradients:
            return last_layer_gradients(
                model,
                source,
                loss=options.loss,
                batch_size=FORWARD_BATCHES * (train_loader.batch_size or 32),
                device=device,
            )

        pool = remaining(len(train_loader.dataset), forgotten)  # type: ignore[arg-type]
        train = source_of(train_loader, device, pool if forgotten else None)
        val = source_of(val_loader, device) if options.needs_validation else None
        selection, report = fast_selection(options, budget, train, val, read, epoch=epoch)
        if report.warning:
            warn_user(f"{options.strategy}, selector='fast': {report.warning}")
        absent = report.info.get("classes_without_validation")
        if absent:
            warn_user(
                f"{options.strategy}, selector='fast': the validation data has no sample of class "
                f"{', '.join(map(str, absent))}; there all of it decides"
            )
        indices = pool[selection.indices.cpu()] if forgotten else selection.indices
        weights = cords_weights(selection, options.strategy, report.pool)
        if options.strategy != "GLISTER" and options.selection_type.startswith("PerClass"):
            # As CORDS does: a loader that does not shuffle must not see class after class.
            draws = generator(options.seed, "order", epoch)
            order = torch.randperm(len(indices), generator=draws)
            indices, weights = indices[order], weights[order]
        return indices.tolist(), weights, report


def source_of(
    loader: DataLoader[Any], device: torch.device, indices: Tensor | None = None
) -> BatchSource:
    """The data set of a loader by index, batched by its own collate function if it has one.

    Args:
        loader: whose data set.
        device: where batches go.
        indices: of the samples to read; None: all.
    """
    own = loader.collate_fn is not default_collate
    return BatchSource(
        loader.dataset,
        indices,
        device=device,
        cache_bytes=0,  # one pass gains nothing from keeping what it reads
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn if own else None,
    )


def has_dict_samples(dataset: Dataset[Any]) -> bool:
    """Whether the samples of a data set are dicts, by reading one."""
    with preserved_rng(), nothing_left_open(dataset):
        return isinstance(dataset[0], Mapping)


class WeightedDicts(Dataset[dict[str, Any]]):
    """Dict samples with their weight under ``weights``, in place of CORDS's weighted subset.

    CORDS's turns a dict into the tuple of its keys.
    """

    dataset: Dataset[Any]
    indices: Any
    weights: Any

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[self.indices[index]], "weights": self.weights[index]}

    def __len__(self) -> int:
        return len(self.indices)


def with_dicts(loader: DataLoader[Any]) -> None:
    """Let a loader over CORDS's weighted subset give out dict samples, in place."""
    # A DataLoader refuses another data set once it is built; this one keeps its three attributes.
    loader.dataset.__class__ = WeightedDicts
