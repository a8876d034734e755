"""Networks that cannot be trained or read, refused before any work."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter


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
