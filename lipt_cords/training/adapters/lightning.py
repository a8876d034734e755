"""Lightning: a callback that tells the subset's loader by which model to choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from lipt_cords.training.reselecting_loader import ReselectingLoader


class ReselectCallback(lightning.Callback):  # type: ignore[misc]
    """Lets every :class:`lipt_cords.ReselectingLoader` of a ``Trainer`` choose by its module.

    The loader may come from ``fit``, from a module or from a data module. Lightning's checkpoints
    hold its subset and its place, and ``fit(..., ckpt_path=...)`` continues there. Under DDP rank 0
    chooses and every rank reads its part. The training step averages ``weights * loss``.

    Args:
        net: the part of the module that reads inputs and returns logits, as a function of the
            module; None for the module itself.
    """

    def __init__(self, net: Callable[[Any], nn.Module] | None = None) -> None:
        self._net = net
        self._loaders: list[ReselectingLoader] = []
        self._stored: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Bind the loaders, and put them where a checkpoint says.

        Raises:
            ValueError: the trainer reads no such loader, or another number than before.
        """
        self._bind(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Bind loaders that are new in this epoch (``reload_dataloaders_every_n_epochs``)."""
        self._bind(trainer, pl_module)

    def _bind(self, trainer: Any, pl_module: Any) -> None:
        read = CombinedLoader(trainer.train_dataloader, "max_size").flattened
        loaders = [one for one in read if isinstance(one, ReselectingLoader)]
        if not loaders:
            raise ValueError(
                "the trainer reads no ReselectingLoader: return one from train_dataloader(), or "
                "pass it to fit"
            )
        for loader in loaders:
            loader.bind(pl_module if self._net is None else self._net(pl_module))
        self._loaders, stored, self._stored = loaders, self._stored, []
        if stored and len(stored) != len(loaders):
            raise ValueError(
                f"the checkpoint holds {len(stored)} ReselectingLoaders, and the trainer reads "
                f"{len(loaders)}: give it the same loaders"
            )
        for loader, state in zip(loaders, stored, strict=False):
            loader.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """The loaders' states."""
        return {"loaders": [loader.state_dict() for loader in self._loaders]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the loaders' states until the trainer has its loaders."""
        self._stored = list(state_dict["loaders"])
