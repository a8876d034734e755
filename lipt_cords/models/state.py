"""State dicts: what weights are made of, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def on_cpu(state: State) -> State:
    """A state dict whose tensors lie on the CPU."""
    return {name: value.cpu() for name, value in state.items()}


def tensor_state(model: nn.Module, *, clone: bool = True) -> State:
    """The state dict of a model, detached.

    Raises:
        ValueError: an entry is no tensor, or is complex, so that it cannot be averaged.
    """
    state = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_complex():
            kind = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"the model's state {name!r} is a {kind}: only models whose whole state is real "
                "tensors can be averaged"
            )
        value = value.detach()
        state[name] = value.clone(memory_format=torch.contiguous_format) if clone else value
    return state


def all_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether no entry of a state dict is NaN or infinite."""
    checks = [torch.isfinite(t).all() for t in state.values() if t.is_floating_point()]
    return bool(torch.stack(checks).all()) if checks else True
