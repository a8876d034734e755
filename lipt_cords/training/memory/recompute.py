"""Operations of a step that may be called again, on the same inputs: the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from lipt_cords.training.memory.handles import Handle
from lipt_cords.training.memory.storages import Geometry, check_version, tensors_of, whole_storage


@dataclass
class Call:
    """An operation of this step that may be called again."""

    function: Any
    leaves: list[Any]
    spec: TreeSpec
    results: tuple[int, ...]
    gradients: bool
    """Whether they were enabled."""


@dataclass(frozen=True)
class FixedArgument:
    """An argument of a call that stays in memory."""

    tensor: Tensor
    copied: bool
    """Whether the operation gets a copy: BatchNorm must not update its statistics twice."""
    version: int
    """Version of its content when the operation read it."""


@dataclass(frozen=True)
class StoredArgument:
    """An argument of a call: a view into a storage of the step."""

    number: int
    geometry: Geometry


def recompute_storage(number: int, calls: Sequence[Call], sources: Mapping[int, Handle]) -> Tensor:
    """Call operations again.

    Args:
        number: of the storage to recompute.
        calls: in order.
        sources: handles of the storages that they read.

    Returns:
        All bytes of the storage, shape (bytes,).
    """
    there = {one: handle.get() for one, handle in sources.items()}
    last = {}
    for place, call in enumerate(calls):
        for leaf in call.leaves:
            if isinstance(leaf, StoredArgument):
                last[leaf.number] = place
    kind = device_type(there, calls)
    # As below autograd in the forward pass: kernels may check whether gradients are enabled there.
    below = torch._C._AutoDispatchBelowAutograd()
    with torch.enable_grad(), below, torch.autocast(kind, enabled=False):
        for place, call in enumerate(calls):
            leaves = [_argument(leaf, there) for leaf in call.leaves]
            args, kwargs = tree_unflatten(leaves, call.spec)
            with torch.set_grad_enabled(call.gradients):
                result = call.function(*args, **kwargs)
            made = tensors_of(result)
            for one, tensor in zip(call.results, made, strict=True):
                if one >= 0 and one not in there:
                    there[one] = whole_storage(tensor)
            del leaves, args, kwargs, result, made
            for one in [one for one in there if one != number and last.get(one, -1) <= place]:
                del there[one]
    return there[number]


def device_type(there: Mapping[int, Tensor], calls: Sequence[Call]) -> str:
    """The type of the device of the operations, from their inputs or device arguments."""
    read = [
        leaf.tensor for call in calls for leaf in call.leaves if isinstance(leaf, FixedArgument)
    ]
    given = [leaf for call in calls for leaf in call.leaves if isinstance(leaf, torch.device)]
    devices = [*(tensor.device for tensor in (*there.values(), *read)), *given]
    return devices[0].type if devices else "cpu"


def _argument(leaf: Any, there: dict[int, Tensor]) -> Any:
    if isinstance(leaf, StoredArgument):
        return leaf.geometry.on(there[leaf.number])
    if isinstance(leaf, FixedArgument):
        if leaf.copied:
            return leaf.tensor.clone()
        check_version(leaf.tensor._version, leaf.version, leaf.tensor)
        return leaf.tensor
    return leaf
