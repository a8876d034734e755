"""Networks that cannot be trained or read, refused before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from lipt_cords.data.batches import Inputs


def require_weights(model: Any) -> None:
    """Refuse what is no network, and a network whose weights have no values.

    Raises:
        ValueError: no module, lazy layers that were never called, or weights on the meta device.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, received {type(model).__name__}")
    entries = [*model.named_parameters(), *model.named_buffers()]
    if any(isinstance(t, UninitializedParameter | UninitializedBuffer) for _, t in entries):
        raise ValueError(
            "the model has lazy layers without weights yet: call it once on a batch before"
        )
    for name, tensor in entries:
        if tensor.is_meta:
            raise ValueError(
                f"the weight {name!r} is on the meta device, without values: call "
                "model.to_empty(device=...), and initialise or load it"
            )


def require_clear_modes(model: nn.Module) -> None:
    """Refuse a network in eval mode with modules in train mode: what is to be kept is not clear.

    Raises:
        ValueError: it is such a network; such a module is named.
    """
    if model.training:
        return
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"the model is in eval mode, but {name!r} in it is in train mode, so what is to "
                "stay in eval mode is not clear: call model.train(), and then .eval() on the "
                "modules whose statistics are to stay as they are"
            )


def require_trainable(model: nn.Module) -> None:
    """Refuse a network without a trainable weight.

    Raises:
        ValueError: it is frozen as a whole, or quantised; the first quantised layer is named.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        return
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__:
            raise ValueError(
                f"the layer {name!r} is quantised ({type(module).__name__}), and no weight is left "
                "that can be trained: train the network, and quantise it afterwards"
            )
    raise ValueError("the model has no trainable parameter: set requires_grad on some")


def require_own_outputs(model: nn.Module) -> None:
    """Refuse BatchNorm without running statistics: a sample's output depends on its batch.

    Raises:
        ValueError: the network has such a layer; it is named.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"the BatchNorm layer {name!r} keeps no running statistics, so that the output of "
                "a sample depends on the others in its batch, and a sample has no gradient of its "
                "own: build it with track_running_stats=True"
            )


def require_class_outputs(outputs: int, what: str) -> None:
    """Refuse a binary classifier of one logit: selection works on an output a class.

    Args:
        outputs: C.
        what: has them, such as ``"the head 'fc'"``.

    Raises:
        ValueError: there is one.
    """
    if outputs == 1:
        raise ValueError(
            f"{what} has 1 output, and an output a class is needed: instead of one output for "
            "binary cross-entropy, build the network with 2 for cross-entropy, which is the same "
            "model (its probability is the sigmoid of their difference)"
        )


@contextmanager
def explained(model: nn.Module, inputs: Inputs, what: str) -> Iterator[None]:
    """Turn torch's complaints about inputs into an error that shows them.

    Args:
        model: that reads them.
        inputs: of some samples.
        what: they are, such as ``"the first training sample"``.

    Raises:
        ValueError: the shapes and dtypes that the model does not read; with what to do where its
            weights have another floating-point dtype.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError) as error:
        named = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
        given = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in named.items())
        floats = {str(x.dtype) for x in named.values() if x.is_floating_point()}
        weights = {str(w.dtype) for w in model.parameters() if w.is_floating_point()}
        remedy = ""
        if floats and weights and not floats & weights:
            remedy = (
                f". Its weights are {' and '.join(sorted(weights))}: call model.float(), or give "
                "inputs of that dtype"
            )
        raise ValueError(
            f"{type(model).__name__} cannot read {what} ({given}): "
            f"{type(error).__name__}: {error}{remedy}"
        ) from error
