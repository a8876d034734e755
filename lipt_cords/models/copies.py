"""Copies of networks, and the network inside of wrappers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


def bare(model: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``.

    Its weights are those of the wrapper, under names without ``_orig_mod.`` or ``module.``.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, parallel) or type(model).__name__ == "OptimizedModule":
        inside = model.module if isinstance(model, parallel) else model._orig_mod
        if not isinstance(inside, nn.Module):
            break
        model = inside
    return model


def copy_model(model: M) -> M:
    """An independent copy of a network, without gradients and autograd graphs.

    Tensors that a forward pass left in it (a kept activation, an auxiliary loss, the normalised
    weight of ``torch.nn.utils.spectral_norm``) are copied as plain values, which ``deepcopy``
    alone refuses.

    Raises:
        ValueError: it holds something that cannot be copied; it is named.
    """
    try:
        copied: M = _deep_copy(model)
    except Exception as error:  # whatever a user's object raises
        raise ValueError(
            f"the model cannot be copied, which every worker needs: {_culprit(model)} "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]}). Make it where it is "
            "used, or leave it out of copies (__getstate__)"
        ) from error
    return copied


def with_dense_gradients(model: M) -> M:
    """The same network, whose embedding layers have dense gradients of the same values."""
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
    return model


def _deep_copy(value: Any) -> Any:
    with _PlainValues():
        return copy.deepcopy(value)


def _culprit(model: nn.Module) -> str:
    """Where in a network something cannot be copied, in words."""
    own: list[tuple[str, Any]] = []
    of_torch: list[tuple[str, Any]] = []  # may hold other modules, such as hooks that are methods
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                own += [(f"{name}.{part}", one) for part, one in value.items()]
            elif key != "_modules":
                (of_torch if key.startswith("_") else own).append((f"{name}.{key}", value))
    for place, value in (*own, *of_torch):
        try:
            _deep_copy(value)
        except Exception:  # it is looked for
            return place.lstrip(".")
    return type(model).__name__


class _PlainValues(TorchFunctionMode):
    """Inside, a deep copy of a tensor with a history is a copy of its values."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))
