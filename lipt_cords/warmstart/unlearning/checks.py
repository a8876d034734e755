"""Checks of nets, options and data for DeltaGrad."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import Dataset

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.base.sizes import parse_bytes, show_bytes
from lipt_cords.data.source import BatchSource


def check_net(model: nn.Module) -> None:
    """Refuse nets whose gradients are not a function of the weights and the samples.

    Args:
        model: in the mode in which it is trained; layers in eval mode do not matter.

    Raises:
        ValueError: the part that does not allow it, and what to do.
    """
    for kind, why in (
        (_BatchNorm, "whose statistics tie the samples of a batch together"),
        (_DropoutNd, "which makes every gradient random"),
    ):
        layers = ((name, m) for name, m in model.named_modules() if isinstance(m, kind))
        found = next((name for name, layer in layers if layer.training), None)
        if found is not None:
            layer = type(model.get_submodule(found)).__name__
            raise ValueError(
                f"DeltaGrad does not cover {layer} ({found!r}), {why}: train a head on frozen "
                "embeddings (DeltaGrad.on_head)"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no trainable parameter: set requires_grad on some")


def check_options(
    optimizer: str, momentum: float, whole: dict[str, int], real: dict[str, float], burn_in: int
) -> None:
    """Refuse other optimizers, and options out of range.

    Args:
        optimizer: by name.
        momentum: of the optimizer.
        whole: options that must be whole numbers of at least 1.
        real: options that must be finite and not negative.
        burn_in: may also be 0.
    """
    if optimizer != "sgd" or momentum != 0:
        raise ValueError(
            "DeltaGrad replays only plain SGD: with momentum or Adam a step depends on all "
            f"earlier gradients. Received optimizer={optimizer!r}, momentum={momentum!r}: leave "
            "them out"
        )
    for name, value in {**whole, "burn_in": burn_in}.items():
        least = 0 if name == "burn_in" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"{name} must be a whole number of at least {least}, received {value!r}"
            )
    for name, number in real.items():
        fine = isinstance(number, int | float) and math.isfinite(number) and number >= 0
        if not fine or (name == "lr" and number == 0):
            raise ValueError(
                f"{name} must be a finite number {'above' if name == 'lr' else 'of at least'} 0, "
                f"received {number!r}"
            )


def check_cache(steps: int, weights: int, inputs: int, limit: int | str | None) -> None:
    """Refuse a cache that does not fit, before anything is trained.

    Args:
        steps: of the training.
        weights: that are trained.
        inputs: bytes of all inputs, as float64.
        limit: bytes, or a size; None: half of the machine's memory.

    Raises:
        ValueError: it takes more.
    """
    needed = 2 * 8 * weights * steps + inputs
    if limit is None:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    limit = parse_bytes(limit, "max_cache")
    if needed > limit:
        raise ValueError(
            f"the cache of {steps:,} steps of {weights:,} weights and {show_bytes(inputs)} of "
            f"inputs takes {show_bytes(needed)}, and {show_bytes(limit)} may be used: raise "
            "batch_size, lower epochs, or train less of the net"
        )


def read_inputs(dataset: Dataset[Any]) -> Tensor:
    """All inputs, float64.

    Raises:
        ValueError: dicts, or inputs that are not finite.
    """
    batches = [x for x, _ in BatchSource(dataset, cache_bytes=0).batches(batch_size=4096)]
    if not all(isinstance(x, Tensor) for x in batches):
        raise ValueError("DeltaGrad reads samples (x, y) with one tensor x, received dicts")
    inputs = torch.cat([x for x in batches if isinstance(x, Tensor)]).double()
    wrong = ~inputs.flatten(1).isfinite().all(1) if inputs.ndim > 1 else ~inputs.isfinite()
    if bool(wrong.any()):
        raise ValueError(
            f"the inputs of sample {int(wrong.nonzero()[0])} are not finite: replace or drop it"
        )
    return inputs


def check_samples(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Refuse samples that the net cannot read, and nets that draw random numbers.

    Raises:
        ValueError: the samples or the net, and what to do.
    """
    few = inputs[:4]
    try:
        with torch.no_grad(), isolated_rng(0, "deltagrad"):
            logits, again = model(few), model(few)
    except RuntimeError as error:
        raise ValueError(
            f"the model does not read inputs of shape {tuple(few.shape[1:])}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(few):
        raise ValueError("the model must give one row of class scores a sample")
    if not torch.equal(logits, again):
        raise ValueError(
            "the model gives two outputs for one input (dropout in its forward?): DeltaGrad needs "
            "gradients that are a function of weights and samples"
        )
    if int(labels.max()) >= logits.shape[1] or int(labels.min()) < 0:
        raise ValueError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}, and the model has "
            f"{logits.shape[1]} outputs: give labels from 0, and an output for each class"
        )
