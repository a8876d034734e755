"""Facts about a net for a planner: memory before a step, and the module that runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lipt_cords.training.memory.storages import numbered, tensors_of


def resident_storages(model: nn.Module, optimizer: Optimizer | None) -> tuple[list[Any], int]:
    """Storages that exist before a step, and their bytes, each once.

    Args:
        model: its weights, buffers and gradients.
        optimizer: its state; None: no state.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    if optimizer is not None:
        tensors += tensors_of(list(optimizer.state.values()))
    storages = {
        id(t.untyped_storage()): t.untyped_storage() for one in tensors for t in _dense_parts(one)
    }
    return list(storages.values()), sum(storage.nbytes() for storage in storages.values())


class RunningModule:
    """The module of a net that runs."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack: list[str] = []

    @property
    def name(self) -> str:
        """Name of the innermost one; empty if none runs."""
        return self._stack[-1] if self._stack else ""

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Modules have hooks inside."""

        def entered(module: nn.Module, args: Any) -> None:
            self._stack.append(self._names.get(id(module), ""))

        def left(module: nn.Module, args: Any, result: Any) -> None:
            if self._stack:
                self._stack.pop()

        hooks = []
        for module in self._model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            hooks += [module.register_forward_pre_hook(entered), module.register_forward_hook(left)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._stack.clear()


def _dense_parts(tensor: Tensor) -> list[Tensor]:
    """The dense tensors in memory: the tensor itself, or the parts of a sparse one."""
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [tensor] if numbered(tensor) else []


def shapes_of(values: Any) -> tuple[Any, ...]:
    """Shapes and types of tensors in anything nested, and plain numbers and texts."""
    return tuple(
        (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor)
        else leaf if isinstance(leaf, bool | int | float | str) else type(leaf)
        for leaf in tree_leaves(values)
    )  # fmt: skip


@contextmanager
def inputs_noted(model: nn.Module, shapes: list[Any]) -> Iterator[None]:
    """Record the input shapes of the first call of a model inside."""

    def called(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not shapes:
            shapes.append(shapes_of((args, kwargs)))

    if isinstance(model, torch.jit.ScriptModule):
        yield
        return
    hook = model.register_forward_pre_hook(called, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def refuse_unplannable(model: nn.Module) -> None:
    """Refuse a model that torch.compile made, and one whose weights have no shapes yet.

    Raises:
        ValueError: it is such a model, or contains one.
    """
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        raise ValueError(
            "the model has lazy parameters, whose shapes are not known yet: run one batch through "
            "it first"
        )
    for module in model.modules():
        if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
            raise ValueError(
                "a memory budget and torch.compile exclude each other: a compiled net decides by "
                "itself what it saves; give the net as it was before torch.compile, or leave the "
                "budget out and set torch._functorch.config.activation_memory_budget"
            )
