"""What DeltaGrad covers, and what it does not."""

from __future__ import annotations

import os

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def check_net(model: nn.Module) -> None:
    """Refuse nets whose gradients are no function of the weights and the samples.

    Raises:
        ValueError: what is in the way, and what to do.
    """
    for kind, why in (
        (_BatchNorm, "whose statistics tie the samples of a batch together"),
        (_DropoutNd, "which makes every gradient another one"),
    ):
        found = next((name for name, m in model.named_modules() if isinstance(m, kind)), None)
        if found is not None:
            layer = type(model.get_submodule(found)).__name__
            raise ValueError(
                f"DeltaGrad does not cover {layer} ({found!r}), {why}: train a head on frozen "
                "embeddings (DeltaGrad.on_head)"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no trainable parameter: set requires_grad on some")


def check_options(
    optimizer: str, momentum: float, whole: dict[str, int], real: dict[str, float]
) -> None:
    """Refuse other optimizers, and options out of range.

    Args:
        optimizer: by name.
        momentum: of it.
        whole: options that must be whole numbers of at least 1.
        real: options that must not be negative.
    """
    if optimizer != "sgd" or momentum != 0:
        raise ValueError(
            "DeltaGrad replays plain SGD alone: with momentum or Adam a step depends on all "
            f"earlier gradients. Received optimizer={optimizer!r}, momentum={momentum!r}: leave "
            "them out"
        )
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, received {value!r}")
    for name, number in real.items():
        if not number >= 0 or (name == "lr" and number == 0):
            raise ValueError(f"{name} must be a number of at least 0, received {number!r}")


def check_cache(steps: int, weights: int, limit: int | None) -> None:
    """Refuse a cache that does not fit, before anything is computed.

    Raises:
        ValueError: it takes more than the limit (None: half of the machine's memory).
    """
    needed = 2 * 8 * weights * steps
    if limit is None:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if needed > limit:
        raise ValueError(
            f"the cache of {steps:,} steps of {weights:,} weights takes {needed / 2**30:.2f} GiB, "
            f"and {limit / 2**30:.2f} GiB may be used: raise batch_size, lower epochs, or train "
            "less of the net"
        )
