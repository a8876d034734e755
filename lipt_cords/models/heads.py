"""The linear head of any network: finding it, calling the network, recording what it reads.

Every selector works on last-layer gradients, and those need only two things of a network: its
logits, and the inputs of the linear layer that made them. Both are read by hooks, so a user's
network is neither wrapped nor changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import preserved_rng
from lipt_cords.data.batches import Inputs, to_device
from lipt_cords.models.arguments import taken
from lipt_cords.models.eager import uncompiled
from lipt_cords.models.made import MadeByLayers, heads_in, last_ones, pooled_in
from lipt_cords.models.modes import modes_restored
from lipt_cords.models.outputs import (
    Place,
    are_clear,
    logits_of,
    nearly_equal,
    place_of,
    tensors_in,
)
from lipt_cords.models.pooled import pooled_embeddings, traced
from lipt_cords.models.state import buffers_restored


@dataclass(frozen=True)
class Head:
    """The linear layer that makes a network's logits, and its name in ``named_modules()``."""

    name: str
    module: nn.Linear


def model_device(model: nn.Module) -> torch.device:
    """The device of a network's first parameter or buffer; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def run_model(model: nn.Module, inputs: Inputs) -> Any:
    """Call a network on a tensor, or on those of a dict that it takes as keyword arguments."""
    return model(inputs) if isinstance(inputs, Tensor) else model(**taken(model, inputs))


def call_model(model: nn.Module, inputs: Inputs) -> Tensor:
    """Call a network on a tensor, or on a dict of keyword arguments, and unwrap its logits."""
    return logits_of(run_model(model, inputs))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without autograd; afterwards training flags, buffers and random states are as
    before.

    Buffers are restored too, because some layers write them even in eval mode.
    """
    with buffers_restored(model), modes_restored(model), preserved_rng(), torch.no_grad():
        model.eval()
        yield


def find_head(
    model: nn.Module,
    *,
    head: str | None = None,
    num_classes: int | None = None,
    sample: Inputs | None = None,
) -> Head:
    """Find the linear layer whose output is the network's output.

    Of a network that returns several tensors, such as (features, logits), every linear layer is a
    candidate whose output is among them, unless the output of another one depends on it.

    Args:
        head: its name in ``model.named_modules()``; given, nothing is searched.
        num_classes: its expected number of outputs.
        sample: a batch for one forward pass in eval mode, which identifies the head by its output.
            Without it, the network must have exactly one linear layer (with ``num_classes``
            outputs, if given).

    Raises:
        ValueError: an unknown name, no linear head, two candidates, or another number of outputs.

    >>> find_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 3))).name
    '1'
    """
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if head is not None:
        if head not in linears:
            raise unknown_name("linear layer", head, linears) if linears else _no_head(model)
        found = [head]
    elif not linears:
        raise _no_head(model)
    elif sample is not None:
        found = _watched(model, linears, sample)
        if not found:
            raise ValueError(
                f"the output of {type(model).__name__} is not the output of any of its linear "
                f"layers ({_names(linears)}): end forward() with the linear head, without softmax"
            )
    else:
        found = [
            name
            for name, module in linears.items()
            if num_classes is None or module.out_features == num_classes
        ]
        if not found:
            raise ValueError(
                f"no linear layer of {type(model).__name__} has {num_classes} outputs "
                f"({_names(linears)}): build the network for {num_classes} classes"
            )
    if len(found) > 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found)} linear layers that may be its head "
            f"({', '.join(map(repr, found))}): pass head='{found[-1]}' or the one that is meant"
        )
    chosen = Head(found[0], linears[found[0]])
    if num_classes is not None and chosen.module.out_features != num_classes:
        raise ValueError(
            f"the head {chosen.name!r} of {type(model).__name__} has "
            f"{chosen.module.out_features} outputs, the data has {num_classes} classes: "
            f"build the network for {num_classes} classes"
        )
    return chosen


def head_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a linear layer was called with, by position or as ``input=``."""
    embeddings: Tensor = args[0] if args else kwargs["input"]
    return embeddings


class EmbeddingRecorder:
    """Records the input and the output of a linear head while a network runs.

    A head that reads every token is recorded too, where the network pools its outputs; see
    :mod:`lipt_cords.models.pooled`. The hook is removed on exit, whatever happens inside.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> with EmbeddingRecorder(find_head(model)) as recorder:
    ...     logits = call_model(model, torch.ones(2, 2, 2))
    >>> recorder.embeddings.shape
    torch.Size([2, 4])
    """

    def __init__(self, head: Head | nn.Module) -> None:
        self._module = head.module if isinstance(head, Head) else head
        self._name = head.name if isinstance(head, Head) else type(head).__name__
        self._embeddings: Tensor | None = None
        self._outputs: Tensor | None = None

    def __enter__(self) -> EmbeddingRecorder:
        self._grad_enabled = torch.is_grad_enabled()
        self._eager = uncompiled()
        self._eager.__enter__()
        self._handle = self._module.register_forward_hook(self._record, with_kwargs=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()
        torch.set_grad_enabled(self._grad_enabled)
        self._eager.__exit__(kind, error, trace)

    def _record(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        self._embeddings, self._outputs = head_input(args, kwargs), output
        if output.ndim > 2:
            self._outputs = traced(output)
        self._versions = self._versions_now()
        return self._outputs if output.ndim > 2 else None

    def _versions_now(self) -> list[int]:
        read = (self._embeddings, self._outputs)
        return [-1 if one is None or one.is_inference() else one._version for one in read]

    @property
    def embeddings(self) -> Tensor:
        """Input of the head at the latest call, shape (B, E), or (B, T, E) of every token."""
        return self._recorded(self._embeddings)

    def embeddings_of(self, logits: Tensor) -> Tensor:
        """Input of the head at the latest call, pooled as its outputs are, shape (B, E).

        Args:
            logits: of the network in this call, (B, C).

        Raises:
            ValueError: the head reads every token, and the logits are no mean of its outputs.
        """
        read, made = self.embeddings, self.outputs
        return read if made.ndim <= 2 else pooled_embeddings(read, made, logits, self._name)

    @property
    def outputs(self) -> Tensor:
        """Output of the head at the latest call, shape (B, C), or (B, T, C) of every token."""
        return self._recorded(self._outputs)

    def place_in(self, output: Any) -> Place:
        """Where the head's output of the latest call is in what the network returned.

        Raises:
            ValueError: it was not called, or the network returns several tensors without it.
        """
        if are_clear(output):
            return ()
        place = place_of(output, self.outputs)
        if place is None and self.outputs.ndim > 2:
            # Nothing else has a history: what is recorded is the first that autograd sees.
            found = [at for at, one in tensors_in(output) if one.ndim == 2 and one.requires_grad]
            place = found[0] if len(found) == 1 else None
        if place is None:
            raise ValueError(
                f"the network returns several tensors, and none is the output of the head "
                f"{self._name!r}: return the head's output, alone, in a tuple or as .logits"
            )
        return place

    def check(self, logits: Tensor) -> None:
        """Make sure that the head made the network's logits in the latest call.

        Raises:
            ValueError: it was not called, or its output is not what the network returned.
        """
        made = self.outputs
        if made.ndim > 2 and logits.ndim == 2:
            self.embeddings_of(logits)
            return
        if logits.ndim != 2 or made.shape != logits.shape:
            raise ValueError(
                f"expected the head {self._name!r} to make logits of shape (batch, classes); the "
                f"network returns {tuple(logits.shape)}, the head {tuple(made.shape)}"
            )
        if self._versions_now() != self._versions or not nearly_equal(made, logits):
            raise ValueError(
                f"the network changes the output of the head {self._name!r} (a softmax or a scale "
                "after it?): let forward() return the head's output itself"
            )

    def _recorded(self, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            raise ValueError(
                f"the head {self._name!r} was not called by the network: it is not the layer that "
                "makes the logits; pass the name of the one that is"
            )
        return tensor


def _watched(model: nn.Module, linears: dict[str, nn.Linear], sample: Inputs) -> list[str]:
    """Names of the linear layers whose output is, by memory or else by value, the model's."""
    sample = to_device(sample, model_device(model))
    with undisturbed(model):
        with MadeByLayers(linears) as watch, uncompiled():
            output = run_model(model, sample)
        names = list(heads_in(output, watch.made))
        if len(names) > 1 and not are_clear(output):
            with torch.enable_grad(), MadeByLayers(linears) as watch, uncompiled():
                run_model(model, sample)
            names = last_ones({name: dict(watch.made)[name] for name in names})
        if not names and not torch.is_inference_mode_enabled():
            with torch.enable_grad(), MadeByLayers(linears) as watch, uncompiled():
                output = run_model(model, sample)
            names = last_ones(pooled_in(output, watch.made))
    return [name for name in linears if name in names]


def _names(linears: Mapping[str, nn.Linear]) -> str:
    return ", ".join(
        f"{name!r}: {m.in_features} -> {m.out_features}" for name, m in linears.items()
    )


def _no_head(model: nn.Module) -> ValueError:
    if isinstance(model, torch.jit.ScriptModule):
        return ValueError(
            "the layers of a ScriptModule cannot be watched, so its linear head is not known: "
            "pass the network from which it was scripted or traced"
        )
    return ValueError(
        f"{type(model).__name__} has no linear head (no torch.nn.Linear): last-layer gradients "
        "need one; end the network with nn.Linear(embedding_dim, num_classes)"
    )
