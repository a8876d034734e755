"""The batches of an epoch: one interface for CORDS's loaders and ours, with their state.

The training loop opens an epoch of a source and gets its kind (full data, skipped, a subset) and
the cost of a selection. The state holds all that decides later epochs, so that a resumed run reads
the same batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lipt_cords.data.collated import CollateFunction, apart
from lipt_cords.selectors.base import Selection
from lipt_cords.selectors.loader import SubsetLoader, with_weights
from lipt_cords.training.ledger import FULL, SKIPPED, SUBSET


@dataclass(frozen=True)
class Epoch:
    """The batches of one opened epoch."""

    kind: str
    """``full``, ``skipped`` or ``subset``."""
    batches: Iterable[Any]
    """Tuples (x, y, w), or dicts with ``labels`` and ``weights``."""
    steps: int
    """How many batches."""
    selection_seconds: float = 0.0
    """Seconds spent choosing a subset while opening."""
    selections: int = 0
    """How many subsets were chosen while opening."""
    selection_passes: int = 0
    """Sample-passes of trial trainings while opening."""
    gradient_seconds: float = 0.0
    """Of the seconds spent choosing, those of reading gradients, where they are measured
    separately."""
    chosen: Selection | None = None
    """The subset, if it is a new one."""
    accuracies: tuple[float | None, float | None] = (None, None)
    """Fraction of the subset and of the pool that the model that chose it classifies correctly."""


class EpochSource(Protocol):
    """A source of epochs, one after the other."""

    def open(self, epoch: int) -> Epoch:
        """Open an epoch, counted from 0; called once per epoch, in order."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that decide later epochs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of an equally built source."""
        ...


@dataclass(frozen=True)
class SelectionSchedule:
    """CORDS's schedule: S = int(kappa T) epochs belong to the warm-up, W = ceil(S fraction) of them
    train on full data, the rest is skipped, then subsets follow.

    >>> schedule = SelectionSchedule(num_epochs=8, kappa=0.5, fraction=0.25, select_every=2)
    >>> [schedule.kind(epoch) for epoch in range(5)]
    ['full', 'skipped', 'skipped', 'skipped', 'subset']
    """

    num_epochs: int
    kappa: float
    fraction: float
    select_every: int

    @property
    def select_after(self) -> int:
        """S, the first epoch on a subset."""
        return int(self.kappa * self.num_epochs)

    @property
    def warmup_epochs(self) -> int:
        """W, the epochs on full data."""
        return math.ceil(self.select_after * self.fraction)

    @property
    def subset_epochs(self) -> int:
        """Epochs that train on a subset."""
        return self.num_epochs - self.select_after

    def kind(self, epoch: int) -> str:
        """The kind of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return FULL
        return SKIPPED if epoch < self.select_after else SUBSET

    def selects(self, epoch: int) -> bool:
        """Whether an epoch begins with a new subset."""
        first = epoch == self.select_after
        return self.kind(epoch) == SUBSET and (first or epoch % self.select_every == 0)


def without_single_last(
    loader: DataLoader[Any], batches: Iterable[Any] | None = None
) -> tuple[Iterable[Any], int]:
    """The batches of an epoch, and how many; a single sample left over joins the batch before it.

    BatchNorm cannot train on one sample, and one sample is no batch for the others: a warm start
    does the same. Other epochs are given out as they are, without a batch read in advance.

    Args:
        loader: whose epoch it is.
        batches: of the epoch, where it has begun; None begins one.
    """
    samples, size = len(loader.sampler), loader.batch_size  # type: ignore[arg-type]
    epoch = loader if batches is None else batches
    if size is None or size < 2 or samples < size or samples % size != 1 or loader.drop_last:
        return epoch, len(loader)
    return _joined(iter(epoch), samples // size), samples // size


def _joined(batches: Iterator[Any], whole: int) -> Iterator[Any]:
    for number, batch in enumerate(batches, 1):
        if number == whole and (last := next(batches, None)) is not None:
            yield _one_batch(batch, last)
        else:
            yield batch


_ITEMS = "items"


def _uncollated(items: list[Any]) -> dict[str, list[Any]]:
    """A batch whose items are put together later."""
    return {_ITEMS: items}


def _put_together(batches: Iterable[Any], collate_fn: CollateFunction) -> Iterator[Any]:
    for batch in batches:
        yield with_weights(collate_fn(batch[_ITEMS]), batch["weights"])


def _one_batch(batch: Any, more: Any) -> Any:
    if isinstance(batch, Tensor):
        return torch.cat([batch, more])
    if isinstance(batch, Mapping):
        return {
            key: [*value, *more[key]] if key == _ITEMS else _one_batch(value, more[key])
            for key, value in batch.items()
        }
    parts = [
        _one_batch(one, other) if isinstance(one, Tensor | Mapping) else [*one, *other]
        for one, other in zip(batch, more, strict=True)
    ]
    return tuple(parts) if isinstance(batch, tuple) else parts


class SelectorSource:
    """Our own selectors on CORDS's schedule, through :class:`SubsetLoader`.

    Args:
        dataset: the training data.
        choose: a new selection for an epoch.
        schedule: when to choose.
        batch_size: samples in a step.
        seed: seed of the shuffling.
        shuffle: whether the subset is shuffled in every epoch.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        choose: Callable[[int], Selection],
        schedule: SelectionSchedule,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self._choose = choose
        self._schedule = schedule
        size = len(dataset)  # type: ignore[arg-type]
        everything = Selection(indices=torch.arange(size), weights=torch.ones(size))
        self._full = everything
        plain, self._collate_fn = apart(dataset)
        self._loader = SubsetLoader(
            plain,
            everything,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            num_replicas=1,
            rank=0,
            # A single sample left over joins a batch before they are padded to one length.
            collate_fn=None if self._collate_fn is None else _uncollated,
        )
        self.selection: Selection | None = None
        self.kept: dict[str, Tensor] = {}
        """Results of the first selection that later ones reuse."""

    def open(self, epoch: int) -> Epoch:
        kind = self._schedule.kind(epoch)
        if kind == SKIPPED:
            return Epoch(kind, (), 0)
        if kind == FULL:
            return Epoch(kind, *self._batches_of(self._full))
        if self.selection is not None and not self._schedule.selects(epoch):
            return Epoch(kind, *self._batches_of(self.selection))
        started = time.perf_counter()
        self.selection = self._choose(epoch)
        seconds = time.perf_counter() - started
        info = self.selection.info
        return Epoch(
            kind,
            *self._batches_of(self.selection),
            seconds,
            selections=1,
            selection_passes=int(info.get("pilot_passes", 0)),
            gradient_seconds=float(info.get("gradient_seconds", 0.0)),
            chosen=self.selection,
            accuracies=info.get("accuracies", (None, None)),
        )

    def _batches_of(self, selection: Selection) -> tuple[Iterable[Any], int]:
        self._read(selection)
        batches, steps = without_single_last(self._loader)
        if self._collate_fn is not None:
            batches = _put_together(batches, self._collate_fn)
        return batches, steps

    def _read(self, selection: Selection) -> None:
        if self._loader.selection is not selection:
            self._loader.reselect(selection)

    def state_dict(self) -> dict[str, Any]:
        chosen = self.selection
        subset = None if chosen is None else [chosen.indices, chosen.weights, chosen.name]
        return {"loader": self._loader.state_dict(), "subset": subset, "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["subset"] is not None:
            indices, weights, name = state["subset"]
            self.selection = Selection(indices=indices, weights=weights, name=name)
            self._read(self.selection)
        self.kept = dict(state["kept"])
        self._loader.load_state_dict(state["loader"])
