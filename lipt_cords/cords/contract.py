"""CORDS's model contract for any network, by hooks: the object, its class and its keys stay.

CORDS calls ``model(x, last=True, freeze=True)``, expects ``(logits, embeddings)``, and asks
``model.get_embedding_dim()``. A wrapper would rename every key of the state dict and break
checkpoints and optimizers made before; hooks do not, and they survive the deep copies that CORDS
makes of a model.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lipt_cords.models.eager import uncompiled
from lipt_cords.models.heads import find_head, head_input
from lipt_cords.models.outputs import Place, are_clear, logits_of, place_of, tensor_at

_ATTRIBUTE = "_cords_contract"
_LABEL_KEYS = ("labels", "label")


def follows_cords_contract(model: nn.Module) -> bool:
    """Whether a network's own ``forward`` takes ``last`` and ``freeze``, as CORDS's nets do."""
    names = inspect.signature(model.forward).parameters
    return {"last", "freeze"} <= names.keys() and callable(
        getattr(model, "get_embedding_dim", None)
    )


def make_cords_compatible(model: nn.Module, head: str | None = None) -> nn.Module:
    """Give a network CORDS's contract in place.

    Afterwards the network can be called with ``last=True`` to return ``(logits, embeddings)`` and
    with ``freeze=True`` to run everything below the head without autograd; it returns logits in
    every case, out of ``.logits`` or a tuple if need be; labels in a dict batch are dropped if its
    ``forward`` has no place for them; ``get_embedding_dim()`` gives the width of the head's input.

    Args:
        model: any network that ends with one linear layer. One that already follows the contract
            is left alone.
        head: name of the linear layer; needed where there are several.

    Returns:
        The same object, with the same state-dict keys.

    Raises:
        ValueError: no linear head, or several and no name.

    >>> model = make_cords_compatible(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    >>> logits, embeddings = model(torch.ones(2, 4), last=True, freeze=True)
    >>> logits.shape, embeddings.shape, model.get_embedding_dim()
    (torch.Size([2, 3]), torch.Size([2, 4]), 4)
    """
    present = model.__dict__.get(_ATTRIBUTE)
    if present is None and follows_cords_contract(model):
        return model
    if present is not None and (head is None or head == present.head):
        return model
    found = find_head(model, head=head)
    remove_cords_contract(model)
    contract = _Contract(found.name, found.module.in_features, _unwanted_keys(model))
    contract.handles = [
        model.register_forward_pre_hook(contract.enter, with_kwargs=True, prepend=True),
        found.module.register_forward_pre_hook(contract.reach_head, with_kwargs=True),
        found.module.register_forward_hook(contract.leave_head),
        model.register_forward_hook(contract.leave, always_call=True),
    ]
    if model._compiled_call_impl is not None:
        contract.compiled = model._compiled_call_impl
        model._compiled_call_impl = partial(_call_eagerly_if_asked, model, contract)
    model.__dict__[_ATTRIBUTE] = contract
    model.__dict__["get_embedding_dim"] = contract.get_embedding_dim
    return model


def remove_cords_contract(model: nn.Module) -> nn.Module:
    """Undo :func:`make_cords_compatible`; a network without the hooks is left as it is."""
    contract = model.__dict__.pop(_ATTRIBUTE, None)
    if contract is not None:
        model.__dict__.pop("get_embedding_dim", None)
        if model._compiled_call_impl is not None:
            model._compiled_call_impl = contract.compiled
        for handle in contract.handles:
            handle.remove()
    return model


@dataclass
class _Call:
    """One running forward pass."""

    last: bool
    freeze: bool
    grad_enabled: bool
    eager: ExitStack
    embeddings: Tensor | None = None
    made: Tensor | None = None


class _Contract:
    """The three hooks and what they share; holds no module, so copies of a model stay apart."""

    def __init__(self, head: str, embedding_dim: int, unwanted_keys: tuple[str, ...]) -> None:
        self.head = head
        self.embedding_dim = embedding_dim
        self.unwanted_keys = unwanted_keys
        self.handles: list[RemovableHandle] = []
        self.compiled: Any = None
        """The call that ``model.compile()`` made."""
        self.place: Place | None = None
        """Where the logits are in the output; None before the first call, which is not compiled."""
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in self.__dict__.items() if key not in ("_local", "compiled")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.compiled = None  # as in copies of a compiled network
        self._local = threading.local()

    def get_embedding_dim(self) -> int:
        """Width of the head's input."""
        return self.embedding_dim

    @property
    def _calls(self) -> list[_Call]:
        if not hasattr(self._local, "calls"):
            self._local.calls = []
        calls: list[_Call] = self._local.calls
        return calls

    def enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Take CORDS's own arguments away; switch autograd off if the features are frozen."""
        kept = {key: value for key, value in kwargs.items() if key not in self.unwanted_keys}
        last, freeze = bool(kept.pop("last", False)), bool(kept.pop("freeze", False))
        if torch.compiler.is_compiling():  # a plain call, see _call_eagerly_if_asked
            return args, kept
        eager = ExitStack()
        if last or freeze or self.place is None:  # a compiled network may not call the head's hooks
            eager.enter_context(uncompiled())
        self._calls.append(_Call(last, freeze, torch.is_grad_enabled(), eager))
        if freeze:
            torch.set_grad_enabled(False)
        return args, kept

    def reach_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the embeddings; autograd is on again from the head on."""
        if torch.compiler.is_compiling() or not self._calls:
            return  # the head called by itself, outside of the network
        call = self._calls[-1]
        call.embeddings = head_input(args, kwargs)
        if call.freeze:
            torch.set_grad_enabled(call.grad_enabled)

    def leave_head(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Note what the head made."""
        if not torch.compiler.is_compiling() and self._calls:
            self._calls[-1].made = output

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Restore autograd and return what CORDS expects; also runs when the network raised."""
        if torch.compiler.is_compiling():
            return tensor_at(output, self.place or ())
        call = self._calls.pop()
        torch.set_grad_enabled(call.grad_enabled)
        call.eager.close()
        if output is None:
            return None
        if self.place is None:
            found = None if call.made is None else place_of(output, call.made)
            self.place = () if are_clear(output) or found is None else found
        logits = logits_of(output) if are_clear(output) else tensor_at(output, self.place)
        if not call.last:
            return logits
        if call.embeddings is None:
            raise ValueError(
                f"the head {self.head!r} was not called by the network: call "
                "make_cords_compatible(model, head=...) with the layer that makes the logits"
            )
        if call.embeddings.ndim != 2:
            raise ValueError(
                f"the head {self.head!r} reads {tuple(call.embeddings.shape)}, and CORDS takes one "
                "embedding a sample: select by last_layer_gradients and select, which pool tokens"
            )
        return logits, call.embeddings


def _call_eagerly_if_asked(model: nn.Module, contract: _Contract, *args: Any, **kwargs: Any) -> Any:
    """Call a network of ``model.compile()``, uncompiled where CORDS asks for what hooks see."""
    if kwargs.get("last") or kwargs.get("freeze") or contract.place is None:
        return model._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
    return contract.compiled(*args, **kwargs)


def _unwanted_keys(model: nn.Module) -> tuple[str, ...]:
    """Label keys of a dict batch that the network's ``forward`` has no parameter for."""
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return ()
    return tuple(key for key in _LABEL_KEYS if key not in parameters)
