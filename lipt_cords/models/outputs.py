"""The logits in what a network returns: alone, under a name, or among others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Place = tuple[Any, ...]
"""Keys and positions that lead to a tensor in a network's output; () is the output itself."""


def logits_of(output: Any) -> Tensor:
    """The logits in a network's output: a tensor, an object or mapping with ``logits``, a tuple.

    Of a tuple it is the first; :func:`place_of` finds those of a known head anywhere.

    Raises:
        ValueError: none of these.

    >>> logits_of((torch.zeros(2, 3), "attention")).shape
    torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    found = _named(output)
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        raise ValueError(
            "expected a network whose output is logits, (logits, ...), or has .logits; it returned "
            f"{type(output).__name__}: return the logits from forward()"
        )
    return found


def are_clear(output: Any) -> bool:
    """Whether an output says by itself which tensor the logits are."""
    return isinstance(output, Tensor) or isinstance(_named(output), Tensor)


def tensors_in(output: Any) -> Iterator[tuple[Place, Tensor]]:
    """The tensors in an output that may be logits, and where they are.

    Of an output that says which they are, only those.
    """
    if are_clear(output):
        yield (), logits_of(output)
        return
    parts: Any = ()
    if isinstance(output, Mapping):
        parts = output.items()
    elif isinstance(output, tuple | list):
        parts = enumerate(output)
    for key, part in parts:
        if isinstance(part, Tensor):
            yield (key,), part
        elif isinstance(part, Mapping | tuple | list):
            for place, tensor in tensors_in(part):
                yield (key, *place), tensor


def place_of(output: Any, made: Tensor) -> Place | None:
    """Where a tensor that a layer made is in an output; None if it is not there.

    It is looked for by memory, then by equal values, then by nearly equal ones: a layer that is
    called several times may be averaged.
    """
    for alike in MATCHES:
        for place, one in tensors_in(output):
            if one.numel() == made.numel() and alike(one, made):
                return place
    return None


def tensor_at(output: Any, place: Place) -> Tensor:
    """The tensor at a place of an output.

    Raises:
        ValueError: there is none.
    """
    found = output
    try:
        for key in place:
            found = found[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"the network returned logits at {place} before, and now returns "
            f"{type(output).__name__} without it: return one form from forward()"
        ) from error
    return logits_of(found)


def _identical(one: Tensor, other: Tensor) -> bool:
    return one is other


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr()


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.flatten(), other.flatten())


def _nearly_equal(one: Tensor, other: Tensor) -> bool:
    return nearly_equal(one.flatten(), other.flatten())


def nearly_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape differ by rounding alone."""
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-5, equal_nan=True)


MATCHES = (_identical, _same_memory, _equal, _nearly_equal)
"""Ways to recognise a tensor of as many elements in an output, the surest first."""


def _named(output: Any) -> Any:
    found = output.get("logits") if isinstance(output, Mapping) else None
    return getattr(output, "logits", None) if found is None else found
