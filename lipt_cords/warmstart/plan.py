"""Everything that can be wrong with a warm start, found before it begins; and who gets what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils.data import Dataset

from lipt_cords.batches import dataset_length
from lipt_cords.config import WarmStartConfig
from lipt_cords.data import BatchSource, Inputs, labels_of, to_device
from lipt_cords.models import (
    EmbeddingRecorder,
    Head,
    call_model,
    find_head,
    model_device,
    undisturbed,
)
from lipt_cords.warmstart.augment import require_images
from lipt_cords.warmstart.averaging import all_finite, tensor_state
from lipt_cords.warmstart.feed import steps_per_epoch
from lipt_cords.warmstart.shards import check_shards, make_shards


@dataclass(frozen=True)
class Plan:
    """What rank 0 found out and decided for everyone.

    Attributes:
        head: name of the linear head.
        shards: indices of every worker's samples.
        classes_missing: for every worker, the classes that its shard lacks.
        changing: whether items of the training set differ between reads. Decided by items of the
            whole set, for all ranks, because it decides what a rank trains on.
        unknown: what could not be compared with other ranks and other runs, and why.
    """

    head: str
    shards: list[Tensor]
    classes_missing: list[list[int]]
    changing: bool | None = None
    unknown: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the report says about shards and comparisons."""
        uncompared = [f"not compared with other ranks and runs: {one}" for one in self.unknown]
        lacking = [worker for worker, classes in enumerate(self.classes_missing) if classes]
        if not lacking:
            return uncompared
        named = ", ".join(
            f"worker {worker}: {_shortened(self.classes_missing[worker])}" for worker in lacking[:5]
        )
        more = f", and {len(lacking) - 5} more workers" if len(lacking) > 5 else ""
        return [f"shards without samples of some classes ({named}{more})", *uncompared]


def make_plan(
    config: WarmStartConfig,
    model: nn.Module,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
    num_classes: int | None,
    shards: Sequence[Tensor] | None = None,
) -> tuple[Plan, Tensor]:
    """Check the model and the data, and deal the shards, unless they are given.

    Returns:
        The plan, and the labels of the whole training set, shape (N,).

    Raises:
        ValueError: whatever would make the warm start fail later, in words.
    """
    if config.soup == "greedy" and val_dataset is None:
        raise ValueError(
            "soup='greedy' ranks workers by held-out accuracy and needs val_dataset: "
            "pass one, or set soup='uniform'"
        )
    if config.stop_when is not None and val_dataset is None:
        raise ValueError(
            "stop_when compares workers on held-out samples and needs val_dataset: pass one, or "
            "leave stop_when out"
        )
    if data_length(dataset, "training") == 0:
        raise ValueError("the training data set is empty: expected at least one sample")
    if val_dataset is not None and data_length(val_dataset, "validation") == 0:
        raise ValueError("the validation data set is empty: pass val_dataset=None, or fill it")
    sample = first_inputs(dataset)
    if config.augmentation != "none":
        require_images(sample)
    head = head_of(config, model, sample, num_classes)
    classes = head.module.out_features
    labels = labels_of(dataset)
    _check_labels(labels, classes, "training")
    if val_dataset is not None:
        held_out = first_inputs(val_dataset)
        with _explained(model, held_out, "validation"), undisturbed(model):
            call_model(model, to_device(held_out, model_device(model)))
        _check_labels(labels_of(val_dataset), classes, "validation")
    if shards is None:
        dealt = make_shards(labels, config.num_workers, config.shard_fraction, config.seed)
    else:
        dealt = check_shards(shards, config.num_workers, len(labels))
    smallest = min(map(len, dealt))
    steps = round(config.epochs * steps_per_epoch(smallest, config.batch_size))
    if config.local_steps is None and steps < config.rounds:
        raise ValueError(
            f"rounds ({config.rounds}) exceeds the {steps} steps that epochs={config.epochs:g} "
            f"over a shard of {smallest} samples makes, and every round needs one: lower rounds, "
            "or raise epochs"
        )
    missing = missing_classes(labels, dealt)
    changing = BatchSource(dataset, cache_bytes=0).changes()
    return Plan(head.name, dealt, missing, changing), labels


def missing_classes(labels: Tensor, shards: Sequence[Tensor]) -> list[list[int]]:
    """For every shard, the classes of the data of which it has no sample."""
    present = torch.unique(labels)
    return [present[~torch.isin(present, labels[shard])].tolist() for shard in shards]


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be copied to workers, trained by SGD and averaged.

    Raises:
        ValueError: no module, or one with lazy, sparse, synchronised, complex, frozen or broken
            parts; it says which.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module to train, received {type(model).__name__}")
    tensors = (*model.parameters(), *model.buffers())
    if any(isinstance(t, UninitializedParameter | UninitializedBuffer) for t in tensors):
        raise ValueError(
            "the model has lazy layers without weights yet: call it once on a batch before the "
            "warm start"
        )
    embeddings = (m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    if any(embedding.sparse for embedding in embeddings):
        raise ValueError(
            "the model has embeddings with sparse gradients, which SGD with weight decay cannot "
            "take: build them with sparse=False"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no trainable parameter: set requires_grad on some")
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise ValueError(
            "the model has SyncBatchNorm layers, which would make independent workers wait for "
            "each other: build it with BatchNorm layers"
        )
    state = tensor_state(model)
    if not all_finite(state):
        broken = next(name for name, value in state.items() if not all_finite({name: value}))
        raise ValueError(
            f"the given model has NaN or infinite values in {broken!r}, which cannot be averaged: "
            "initialise a weight again; register a mask as a buffer with persistent=False"
        )


def head_of(
    config: WarmStartConfig, model: nn.Module, sample: Inputs, num_classes: int | None = None
) -> Head:
    """The linear head; one that the user named has to prove itself too."""
    with _explained(model, sample, "training"):
        head = find_head(model, head=config.head, num_classes=num_classes, sample=sample)
        with undisturbed(model), EmbeddingRecorder(head) as recorder:
            recorder.check(call_model(model, to_device(sample, model_device(model))))
    return head


@contextmanager
def _explained(model: nn.Module, sample: Inputs, which: str) -> Iterator[None]:
    """Turn torch's complaints about a sample into an error that shows the sample."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        inputs = {"inputs": sample} if isinstance(sample, Tensor) else sample
        given = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in inputs.items())
        raise ValueError(
            f"{type(model).__name__} cannot read the first {which} sample ({given}): "
            f"{type(error).__name__}: {error}"
        ) from error


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
        ValueError: a data set without a length; it is called by its role.
    """
    try:
        return dataset_length(dataset)
    except ValueError as error:
        raise ValueError(f"unusable {which} data: {error}") from None


def _shortened(classes: Sequence[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
