"""The arguments of a fit that are wrong at first sight."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_arguments(
    loss: Any, num_classes: Any, shards: Sequence[Tensor] | None, on_round: Any
) -> None:
    """Refuse what no process could work with.

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "a warm start trains, which torch.inference_mode() does not allow: call fit outside "
            "of it (torch.no_grad() does no harm)"
        )
    if loss is not None and not callable(loss):
        raise ValueError(
            f"loss must be None, a torch loss or a callable of (logits, labels), received {loss!r}"
        )
    if num_classes is not None and (
        isinstance(num_classes, bool) or not isinstance(num_classes, int)
    ):
        raise ValueError(f"num_classes must be a whole number or None, received {num_classes!r}")
    if on_round is not None and not callable(on_round):
        raise ValueError(
            "on_round must be a function of (RoundReport, state dict), or None, received "
            f"{on_round!r}"
        )
    if shards is not None:
        _check_indices(shards)


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
