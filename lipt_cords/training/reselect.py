"""Choosing a subset anew during a training, by the model as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from lipt_cords.base.randomness import derive_seed
from lipt_cords.data.batches import dataset_length
from lipt_cords.data.collated import CollateFunction
from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.models.losses import PerSampleLoss
from lipt_cords.selectors.base import (
    SELECTORS,
    Selection,
    check_option_names,
    needs_validation,
    select,
)
from lipt_cords.selectors.checks import check_budget
from lipt_cords.selectors.loader import broadcast_selection

WHOLE = (RandomSampler, SequentialSampler, DistributedSampler)
"""Samplers that leave no sample out for good."""


def require_whole(loader: DataLoader[Any]) -> None:
    """Refuse a DataLoader that reads a part of its data set, or has batches of its own.

    A subset is chosen from the whole data set, so samples that the loader holds back, such as
    those for validation, would come into it.

    Raises:
        ValueError: it has a sampler or a batch_sampler of its own, or no batches.
    """
    if isinstance(loader.dataset, IterableDataset):  # refused for its missing length
        return
    if loader.batch_size is None:
        what = "no batch_size" if loader.batch_sampler is None else "a batch_sampler of its own"
    elif isinstance(loader.sampler, WHOLE):
        return
    else:
        what = f"the sampler {type(loader.sampler).__name__}"
    raise ValueError(
        f"the DataLoader has {what}, and a subset is chosen from the whole data set and in batches "
        "of one size: give the data set itself with batch_size=, and only a part of it as "
        "Subset(dataset, indices)"
    )


def pool_of(
    pool: Dataset[Any] | DataLoader[Any], collate_fn: CollateFunction | None
) -> tuple[Dataset[Any], CollateFunction | None]:
    """The data set of a pool, and what makes batches of it: a DataLoader's own, if none is given.

    Raises:
        ValueError: a DataLoader that reads a part of its data set.
    """
    if not isinstance(pool, DataLoader):
        return pool, collate_fn
    require_whole(pool)
    if collate_fn is None and pool.collate_fn is not default_collate:
        collate_fn = pool.collate_fn
    return pool.dataset, collate_fn


class Reselect:
    """How a subset is chosen from a pool, again and again.

    Args:
        dataset: the pool: a map-style data set, or a DataLoader of one, whose ``collate_fn`` is
            taken too.
        budget: how many samples, or a fraction of them below 1.
        selector: a name that :func:`lipt_cords.select` knows.
        every: epochs between two selections.
        val_dataset: held-out samples, for selectors that use them, such as ``glister``.
        loss: of the training, as :func:`lipt_cords.last_layer_gradients` takes it.
        head: name of the linear head; None to find it.
        seed: of every draw of the selector.
        collate_fn: makes batches of items; None stacks tensors.
        **options: of the selector.

    Raises:
        ValueError: an unknown selector or option, a budget or ``every`` out of range, held-out
            samples that are missing, a DataLoader with a sampler of its own.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | DataLoader[Any],
        budget: int | float,
        *,
        selector: str = "importance",
        every: int = 1,
        val_dataset: Dataset[Any] | None = None,
        loss: nn.Module | PerSampleLoss | None = None,
        head: str | None = None,
        seed: int = 0,
        collate_fn: CollateFunction | None = None,
        **options: Any,
    ) -> None:
        dataset, collate_fn = pool_of(dataset, collate_fn)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of epochs from 1, received {every!r}")
        SELECTORS.entry(selector)
        check_option_names(selector, options)
        if val_dataset is None and needs_validation(selector, options):
            raise ValueError(f"selector {selector!r} needs held-out samples: pass val_dataset=")
        self.dataset, self.selector, self.every = dataset, selector, every
        self.budget = check_budget(budget, dataset_length(dataset))
        """How many samples are chosen."""
        self.val_dataset, self.loss, self.head, self.seed = val_dataset, loss, head, seed
        self.collate_fn, self.options = collate_fn, options

    def due(self, epoch: int, chosen_in: int | None) -> bool:
        """Whether an epoch, counted from 0, begins with a new subset.

        Args:
            epoch: that begins.
            chosen_in: the epoch of the last selection; None before the first.
        """
        return chosen_in is None or (epoch != chosen_in and epoch % self.every == 0)

    def choose(self, model: nn.Module, epoch: int) -> Selection:
        """The subset for an epoch. In a process group rank 0 selects, and all get the same one.

        The model is read in eval mode and is as before afterwards, and so is the global random
        state.

        Raises:
            ValueError: the model or the samples cannot be read; on every rank.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return self._choose(model, epoch)
        chosen, failure = None, None
        if dist.get_rank() == 0:
            try:
                chosen = self._choose(model, epoch)
            except Exception as error:  # the others wait, and must hear of it
                failure = error
        try:
            return broadcast_selection(chosen)
        except ValueError:
            if failure is not None:
                raise failure from None
            raise

    def _choose(self, model: nn.Module, epoch: int) -> Selection:
        held_out = None if self.val_dataset is None else self._gradients(model, self.val_dataset)
        chosen = select(
            self.selector,
            self._gradients(model, self.dataset),
            self.budget,
            val_gradients=held_out,
            seed=derive_seed(self.seed, "reselect", epoch) % 2**31,
            **self.options,
        )
        return replace(chosen, scores=None, info={})

    def _gradients(self, model: nn.Module, dataset: Dataset[Any]) -> LastLayerGradients:
        return last_layer_gradients(
            model, dataset, loss=self.loss, head=self.head, collate_fn=self.collate_fn
        )

    def placeholder(self) -> Selection:
        """A selection of the budget's size, before the first one is made."""
        return Selection(indices=torch.arange(self.budget), weights=torch.ones(self.budget))
