"""State dicts: what weights are made of, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

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


@contextmanager
def buffers_restored(model: nn.Module, *, but: Container[str] = ()) -> Iterator[None]:
    """Afterwards every buffer is the tensor that it was before, with the values that it had.

    Args:
        model: whose buffers may be written to, or replaced, inside.
        but: names of those that are left as they are then.
    """
    saved = [
        (module, key, buffer, buffer._version, buffer.detach().clone())
        for name, module in model.named_modules()
        for key, buffer in module._buffers.items()
        if buffer is not None and (f"{name}.{key}" if name else key) not in but
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, key, buffer, version, before in saved:
                if not isinstance(module, torch.jit.ScriptModule):  # which cannot replace one
                    module._buffers[key] = buffer
                # Some write past the count of versions, as `buffer.data.add_` does.
                if buffer._version != version or not torch.equal(buffer, before):
                    buffer.copy_(before)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict: names, shapes, dtypes and every bit."""
    total = hashlib.sha256()
    for name, value in state.items():
        total.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        flat = value.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def all_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether no entry of a state dict is NaN or infinite."""
    checks = [torch.isfinite(t).all() for t in state.values() if t.is_floating_point()]
    return bool(torch.stack(checks).all()) if checks else True


def copied_state(state: Mapping[str, Tensor]) -> State:
    """Independent copies of all entries, detached."""
    return {name: value.detach().clone() for name, value in state.items()}


def require_alike_state(given: object, wanted: Mapping[str, Tensor], who: str) -> None:
    """See that a state has the entries of another, in their shapes and dtypes.

    Args:
        given: a state, as a user's function returned it.
        wanted: the state that it should be like.
        who: named in the error.

    Raises:
        ValueError: it is no state, or an entry differs.
    """
    if not isinstance(given, dict) or given.keys() != wanted.keys():
        known = sorted(given.keys() ^ wanted.keys()) if isinstance(given, dict) else []
        raise ValueError(
            f"{who} must return a state with the entries that it was given, and returned "
            + (f"others: {known[:3]}" if known else f"a {type(given).__name__}")
        )
    for name, value in wanted.items():
        one = given[name]
        if not isinstance(one, Tensor) or one.shape != value.shape or one.dtype != value.dtype:
            what = type(one).__name__
            if isinstance(one, Tensor):
                what = f"{one.dtype} {tuple(one.shape)}"
            raise ValueError(
                f"{who} gives {what} for {name!r}: expected {value.dtype} {tuple(value.shape)}"
            )
