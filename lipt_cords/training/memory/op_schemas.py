"""What operations write to: from their schemas, and BatchNorm's statistics, which these lack."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from lipt_cords.training.memory.storages import tensors_of


@functools.cache
def written_places(function: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of the arguments to which an operation writes, by its schema."""
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(function._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def written_tensors(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors to which an operation writes, by its schema."""
    places = written_places(function)
    if not places:
        return []
    values = [args[place] if place < len(args) else kwargs.get(name) for place, name in places]
    return tensors_of(values)


def moved_statistics(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The running statistics that BatchNorm updates, which its schema does not show."""
    if "batch_norm" not in str(function) or "backward" in str(function):
        return []
    named = {
        argument.name: args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(function._schema.arguments)
    }
    training = named.get("training", named.get("train", True))
    values = [named.get("running_mean"), named.get("running_var")] if training else []
    return tensors_of(values)
