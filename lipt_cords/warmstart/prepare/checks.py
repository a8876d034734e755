"""Checks before any work: arguments, models and labels that cannot be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.data.batches import Inputs, dataset_length, to_device
from lipt_cords.data.source import BatchSource
from lipt_cords.models.copies import bare, copy_model
from lipt_cords.models.heads import (
    EmbeddingRecorder,
    Head,
    find_head,
    model_device,
    run_model,
    undisturbed,
)
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.outputs import are_clear, tensor_at
from lipt_cords.models.state import all_finite, tensor_state
from lipt_cords.models.usable import (
    explained,
    require_class_outputs,
    require_clear_modes,
    require_own_outputs,
    require_trainable,
    require_weights,
)
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.report import OnRound


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


def copy_of_given(model: Any) -> nn.Module:
    """A copy of the module that a user gave, without wrappers; the given one is not changed.

    Raises:
        ValueError: no module, or one that cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, received {type(model).__name__}")
    return copy_model(bare(model))


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


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be copied to workers, trained by SGD and averaged.

    Raises:
        ValueError: a module with lazy, synchronised, complex, frozen or broken parts, or with parts
            on no device; they are named.
    """
    require_weights(model)
    require_own_outputs(model)
    require_trainable(model)
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise ValueError(
            "the model has SyncBatchNorm layers, which would make independent workers wait for "
            "each other: build it with BatchNorm layers"
        )
    state = tensor_state(model)
    require_clear_modes(model)
    if not all_finite(state):
        broken = next(name for name, value in state.items() if not all_finite({name: value}))
        raise ValueError(
            f"the given model has NaN or infinite values in {broken!r}, which cannot be averaged: "
            "initialise a weight again; register a mask as a buffer with persistent=False"
        )


def head_of(
    config: WarmStartConfig, model: nn.Module, sample: Inputs, num_classes: int | None = None
) -> Head:
    """The linear head; one that the user named is checked too."""
    with explained(model, sample, "the first training sample"):
        head = find_head(model, head=config.head, num_classes=num_classes, sample=sample)
        with undisturbed(model), EmbeddingRecorder(head) as recorder:
            output = run_model(model, to_device(sample, model_device(model)))
            recorder.check(tensor_at(output, recorder.place_in(output)))
    require_class_outputs(head.module.out_features, f"the head {head.name!r}")
    if config.compile and not are_clear(output):
        raise ValueError(
            "compile=True needs a model whose forward() returns the logits alone, or as 'logits', "
            f"and this one returns a {type(output).__name__}: leave compile out"
        )
    return head


def first_inputs(dataset: Dataset[Any]) -> Inputs:
    """The first sample's inputs, as a batch of one."""
    return next(BatchSource(dataset, [0], cache_bytes=0).batches(batch_size=1))[0]


def _check_labels(labels: Tensor, classes: int, which: str) -> None:
    outside = (labels < 0) | (labels >= classes)
    if bool(outside.any()):
        sample = int(outside.int().argmax())
        raise ValueError(
            f"sample {sample} of the {which} data has label {int(labels[sample])}, but the "
            f"model's head has {classes} outputs: expected labels from 0 to {classes - 1}"
        )


def data_length(dataset: Dataset[Any], which: str) -> int:
    """Number of samples.

    Raises:
        ValueError: a data set without a length; the message names its role.
    """
    try:
        return dataset_length(dataset)
    except ValueError as error:
        raise ValueError(f"unusable {which} data: {error}") from None
