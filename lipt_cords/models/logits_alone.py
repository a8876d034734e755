"""Networks that return several tensors, trained and evaluated on their logits alone.

A hook on the network replaces its output by the tensor that its linear head made. Where an output
says by itself which tensor that is, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.models.copies import bare
from lipt_cords.models.heads import undisturbed
from lipt_cords.models.made import MadeByLayers, heads_in, last_ones
from lipt_cords.models.outputs import Place, are_clear, tensor_at, tensors_in


def return_logits_alone(model: nn.Module, head: str | None = None) -> None:
    """Make a network return its logits, in place, until :func:`return_everything`.

    Args:
        model: any network; copies of it return them too. A ScriptModule takes no hooks, and has to
            return its logits alone or first.
        head: name of the linear layer that makes them; None: it is found at the first call.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return
    linears: dict[str, nn.Module] = {}
    # A compiled network does not call hooks in it.
    if bare(model) is model and model._compiled_call_impl is None:
        linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if head is not None:
        linears = {head: linears[head]}
    hooks = _LogitsAlone()
    model.register_forward_pre_hook(hooks.enter)
    for name, module in linears.items():
        module.register_forward_hook(partial(hooks.record, name))
    model.register_forward_hook(hooks.leave, with_kwargs=True)


def return_everything(model: nn.Module) -> None:
    """Undo :func:`return_logits_alone`."""
    for module in model.modules() if not isinstance(model, torch.jit.ScriptModule) else ():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number, hook in list(hooks.items()):
                function = hook.func if isinstance(hook, partial) else hook
                if isinstance(getattr(function, "__self__", None), _LogitsAlone):
                    del hooks[number]
                    module._forward_hooks_with_kwargs.pop(number, None)


class _LogitsAlone:
    """The hooks, and what they share; they hold no module, so copies of a network stay apart."""

    def __init__(self) -> None:
        self._made: list[tuple[str, Tensor]] = []
        self._places: dict[bool, Place | None] = {}  # in train and eval mode; None: it is clear
        self._watching = False

    def enter(self, module: nn.Module, args: Any) -> None:
        """Watch the first call in each mode, and all where the output is not clear."""
        self._made.clear()
        self._watching = module.training not in self._places

    def record(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        """Note what a linear layer made."""
        if self._watching:
            self._made.append((name, output))

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The logits in the output; the output itself where it is clear."""
        made, self._made, self._watching = self._made, [], False
        if are_clear(output):
            self._places.setdefault(module.training, None)
            return output
        place = self._places.get(module.training)
        if place is None:
            place = self._places[module.training] = _found(module, args, kwargs, output, made)
        return tensor_at(output, place)


def _found(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    made: list[tuple[str, Tensor]],
) -> Place:
    """Where the logits are in an output.

    Raises:
        ValueError: several tensors may be the logits.
    """
    heads = heads_in(output, made)
    if len(set(heads.values())) > 1:
        modules = dict(model.named_modules())
        layers: Mapping[str, nn.Module] = {name: modules[name] for name in heads}
        with undisturbed(model), torch.enable_grad(), MadeByLayers(layers) as watch:
            model.forward(*args, **kwargs)
        heads = {name: heads[name] for name in last_ones(dict(watch.made))}
    places = set(heads.values()) or {
        place for place, one in tensors_in(output) if one.ndim == 2 and one.is_floating_point()
    }
    if len(places) != 1:
        raise ValueError(
            f"{type(model).__name__} returns several tensors, and {len(places)} of them may be the "
            f"logits{_named(heads)}: return the logits alone, or under the name 'logits'"
        )
    return places.pop()


def _named(heads: Mapping[str, Place]) -> str:
    return f" (of the linear layers {', '.join(map(repr, heads))})" if heads else ""
