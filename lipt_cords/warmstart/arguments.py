"""The arguments of a fit, and those that are wrong at first sight."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.warmstart.material import OnRound
from lipt_cords.warmstart.objective import LossFunction


@dataclass(frozen=True)
class Request:
    """The arguments of one fit, as :meth:`LiPTWarmStart.fit` describes them."""

    model: nn.Module
    dataset: Dataset[Any]
    val_dataset: Dataset[Any] | None = None
    loss: LossFunction | None = None
    num_classes: int | None = None
    shards: Sequence[Tensor] | None = None
    on_round: OnRound | None = None

    def check(self) -> None:
        """Refuse what no process could work with.

        Raises:
            ValueError: what was expected, what came, and what to do.
        """
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "a warm start trains, which torch.inference_mode() does not allow: call fit "
                "outside of it (torch.no_grad() does no harm)"
            )
        loss, classes, on_round = self.loss, self.num_classes, self.on_round
        if loss is not None and not callable(loss):
            raise ValueError(
                "loss must be None, a torch loss or a callable of (logits, labels), received "
                f"{loss!r}"
            )
        if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int)):
            raise ValueError(f"num_classes must be a whole number or None, received {classes!r}")
        if on_round is not None and not callable(on_round):
            raise ValueError(
                "on_round must be a function of (RoundReport, state dict), or None, received "
                f"{on_round!r}"
            )
        if self.shards is not None:
            _check_indices(self.shards)


def copied(model: nn.Module) -> nn.Module:
    """A copy of the given module, which is left as it is.

    Raises:
        ValueError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the model cannot be copied, which every worker needs: {str(error).splitlines()[0]} "
            "(torch.nn.utils.weight_norm and spectral_norm are at fault where they are used: take "
            "those of torch.nn.utils.parametrizations)"
        ) from error


def _check_indices(shards: Any) -> None:
    if isinstance(shards, str) or not hasattr(shards, "__len__") or not hasattr(shards, "__iter__"):
        raise ValueError(
            f"shards must be a sequence of indices for every worker, received {shards!r}"
        )
    for worker, shard in enumerate(shards):
        try:
            torch.as_tensor(shard)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the shard of worker {worker} must be whole numbers, received {shard!r}"
            ) from error
