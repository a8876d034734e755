"""Hugging Face transformers: a callback whose data set is the subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from lipt_cords.base.files import read_json, write_json
from lipt_cords.selectors.base import Selection
from lipt_cords.training.reselect import Reselect

STATE = "subset.json"
"""Written into every checkpoint of the Trainer."""


class ChosenSamples(Dataset[Any]):
    """The samples of the present subset, as many at any time.

    Args:
        dataset: the pool.
        selection: the first subset.
    """

    def __init__(self, dataset: Dataset[Any], selection: Selection) -> None:
        self.dataset, self.selection = dataset, selection

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.selection.indices[index])]


class ReselectCallback(TrainerCallback):  # type: ignore[misc]
    """Trains a ``transformers.Trainer`` on a subset that is chosen anew every few epochs.

    Pass ``callback.subset`` as ``train_dataset`` and the callback in ``callbacks``. The subset is
    written into every checkpoint, and ``train(resume_from_checkpoint=True)`` goes on with it. In
    several processes rank 0 chooses.

    The Trainer's loss takes no weights, so selectors whose weights differ are refused: take
    ``glister``, ``grand``, ``el2n`` or ``stratified``, or a loop of your own with
    :class:`lipt_cords.ReselectingLoader`.

    Args:
        dataset: the pool, as the Trainer would get it.
        budget: how many samples, or a fraction of them below 1.
        collate_fn: the Trainer's ``data_collator``.
        **options: of :class:`lipt_cords.training.reselect.Reselect`, such as ``every``,
            ``selector`` (here ``grand`` if it is left out), ``val_dataset``, ``seed``.

    Raises:
        ValueError: what the selection refuses; a selection whose weights differ; workers that keep
            an earlier subset (``dataloader_persistent_workers``).
    """

    def __init__(
        self,
        dataset: Dataset[Any] | DataLoader[Any],
        budget: int | float,
        *,
        collate_fn: Any = None,
        **options: Any,
    ) -> None:
        options.setdefault("selector", "grand")
        self._policy = Reselect(dataset, budget, collate_fn=collate_fn, **options)
        self._chosen_in: int | None = None
        self.subset = ChosenSamples(self._policy.dataset, self._policy.placeholder())
        """What the Trainer reads."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Restore the subset of a run that is resumed."""
        if args.dataloader_num_workers and args.dataloader_persistent_workers:
            raise ValueError(
                "persistent workers would go on with the first subset: set "
                "dataloader_persistent_workers=False"
            )
        self._chosen_in = None
        if state.global_step == 0:
            return
        path = _path(args, state)
        held = read_json(path)
        indices = torch.tensor(held.get("indices", []), dtype=torch.int64)
        if len(indices) != self._policy.budget:
            raise ValueError(
                f"{path} holds a subset of {len(indices)} samples, and {self._policy.budget} are "
                "to be chosen: resume with the budget and the data of the first run"
            )
        self._take(Selection(indices, torch.ones(len(indices))), held["chosen_in"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Choose a subset where one is due."""
        epoch = int((state.epoch or 0) + 1e-6)
        if self._policy.due(epoch, self._chosen_in):
            chosen = self._policy.choose(given["model"], epoch)
            _require_equal(chosen.weights, self._policy.selector)
            self._take(chosen, epoch)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Write the subset into the checkpoint."""
        if state.is_world_process_zero:
            indices = self.subset.selection.indices.tolist()
            write_json(_path(args, state), {"indices": indices, "chosen_in": self._chosen_in})

    def _take(self, selection: Selection, epoch: int | None) -> None:
        self.subset.selection, self._chosen_in = selection, epoch


def _path(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE


def _require_equal(weights: Tensor, selector: str) -> None:
    if not torch.allclose(weights, weights[:1].expand_as(weights)):
        raise ValueError(
            f"selector {selector!r} gives weights, which transformers' Trainer does not take: "
            "choose glister, grand, el2n or stratified, or use ReselectingLoader in a loop of your "
            "own"
        )
