"""Devices: their names, which are here, and what torch has for each of them.

The only file that asks torch for accelerators (CUDA, ROCm under the same name, XPU, MPS, others):
what it does for all of them stands behind ``torch.accelerator``, what it does for some behind the
module of the kind. A backend that lacks a piece falls back as the function says.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lipt_cords.base.errors import unknown_name

KINDS = ("cuda", "xpu", "mps", "hpu", "mtia", "npu")
"""Accelerators that a name may mean: on another machine it may be here."""
EXAMPLES = ("auto", "cpu", "cuda", "cuda:0", "xpu", "mps")


def accelerator() -> torch.device | None:
    """The kind of accelerator that this machine has, without a number, or None.

    >>> accelerator() is None or accelerator().type != "cpu"
    True
    """
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None else torch.device(found.type)


def accelerator_count() -> int:
    """The number of accelerators of this machine."""
    return torch.accelerator.device_count() if accelerator() is not None else 0


def devices_here() -> tuple[torch.device, ...]:
    """The CPU, and every accelerator with its number."""
    kind = accelerator()
    numbers = range(accelerator_count())
    found = [] if kind is None else [torch.device(kind.type, number) for number in numbers]
    return (torch.device("cpu"), *found)


def kinds_here() -> set[str]:
    """The kinds of the devices of this machine, such as ``cpu`` and ``cuda``."""
    return {device.type for device in devices_here()}


def is_accelerator(device: torch.device) -> bool:
    """Whether it has a memory of its own that is not the CPU's."""
    return device.type not in ("cpu", "meta")


def known_device(name: Any) -> str:
    """The name of a device, or ``auto``, whether or not this machine has it.

    Args:
        name: a string or a torch device.

    Raises:
        ValueError: it is no device that can train.

    >>> known_device("cuda:1"), known_device(torch.device("cpu"))
    ('cuda:1', 'cpu')
    """
    text = str(name)
    kind, colon, number = text.partition(":")
    here = accelerator()
    kinds = ("cpu", *KINDS) if here is None else ("cpu", *KINDS, here.type)
    numbered = not colon or re.fullmatch("0|[1-9][0-9]*", number) is not None
    if text != "auto" and not (kind in kinds and numbered):
        raise unknown_name("device", text, EXAMPLES)
    return text


def resolve_device(name: str | torch.device) -> torch.device:
    """The torch device of a name; ``auto`` is an accelerator if there is one, else the CPU.

    Raises:
        ValueError: an unknown device, or one that this machine does not have.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    known = known_device(name)
    if known == "auto":
        return accelerator() or torch.device("cpu")
    kind, _, number = known.partition(":")
    here = [str(device) for device in devices_here()]
    if kind != "cpu" and f"{kind}:{number or 0}" not in here:
        raise ValueError(
            f"device {known} is not here: this machine has {', '.join(here)}. Use device='auto' "
            "or one of these"
        )
    return torch.device(known)


def nearest(wanted: torch.device, actual: torch.device) -> torch.device:
    """The device that is wanted; without a number the one of its kind where something is.

    >>> nearest(torch.device("cuda"), torch.device("cuda:1"))
    device(type='cuda', index=1)
    """
    return actual if str(wanted) == actual.type else wanted


def numbered_device(number: int) -> str:
    """The name of the accelerator of a number, as CORDS names devices; it may not be here."""
    kind = accelerator()
    return f"{'cuda' if kind is None else kind.type}:{number}"


def of_rank(device: torch.device, local_rank: int) -> torch.device:
    """The device of one of a machine's processes: accelerators without a number are shared out."""
    shared = is_accelerator(device) and ":" not in str(device)
    return torch.device(device.type, local_rank % accelerator_count()) if shared else device


def exchange_backend(device: torch.device) -> str:
    """The process group's backend that moves this device's memory itself; ``gloo`` if none."""
    return {"cuda": "nccl", "xpu": "xccl"}.get(device.type, "gloo")


def initialize(device: torch.device) -> torch.device:
    """Start an accelerator, so that its random state can be read before it is used."""
    start = getattr(_module(device), "init", None)
    if start is not None:
        start()
    return device


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which the accelerator is the one that is meant without a number."""
    inside = getattr(_module(device), "device", None)
    return nullcontext() if inside is None or device.index is None else inside(device)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished what it was given; on a CPU nothing waits."""
    if is_accelerator(device):
        torch.accelerator.synchronize(device)


def free_accelerator_bytes(device: torch.device) -> int | None:
    """Bytes that can still be taken on an accelerator; None if its backend does not say."""
    ask = getattr(_module(device), "mem_get_info", None)
    if ask is not None:
        return int(ask(device)[0])
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of an accelerator's memory anew, where the backend can."""
    reset = getattr(_module(device), "reset_peak_memory_stats", None)
    if reset is not None:
        reset(device)


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes of tensors on an accelerator at once; None if its backend does not say."""
    ask = getattr(_module(device), "max_memory_allocated", None)
    return None if ask is None else int(ask(device))


def random_states() -> tuple[Tensor, ...]:
    """The random state of every accelerator, in the order of their numbers.

    None is started for it: a device that was not used has no state to keep.
    """
    kind = accelerator()
    if kind is None or not _is_started(kind):
        return ()
    return tuple(map(random_state, devices_here()[1:]))


def set_random_states(states: Sequence[Tensor]) -> None:
    """Set what ``random_states`` returned; states of devices that are not here are left out."""
    kind = accelerator()
    if kind is not None:
        for device, state in zip(devices_here()[1:], states, strict=False):
            set_random_state(device, state)


def random_state(device: torch.device) -> Tensor:
    """The global random state of an accelerator, a uint8 tensor on the CPU."""
    state: Tensor = _module(device).get_rng_state(device)
    return state


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Set the global random state of an accelerator."""
    _module(device).set_rng_state(state, device)


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Restore the random states of torch, of the CPU and of accelerators in use, on exit."""
    here, there = torch.get_rng_state(), random_states()
    try:
        yield
    finally:
        torch.set_rng_state(here)
        set_random_states(there)


def has_streams(device: torch.device) -> bool:
    """Whether copies can run beside the computation there, in the order that events say."""
    module = _module(device)
    return all(hasattr(module, name) for name in ("Stream", "Event", "stream", "current_stream"))


def new_stream(device: torch.device) -> Any:
    """A stream of its own; only where ``has_streams``."""
    return _module(device).Stream(device)


def current_stream(device: torch.device) -> Any:
    """The stream that the computation is in; only where ``has_streams``."""
    return _module(device).current_stream(device)


def in_stream(device: torch.device, stream: Any) -> AbstractContextManager[Any]:
    """A context whose work goes to a stream; only where ``has_streams``."""
    context: AbstractContextManager[Any] = _module(device).stream(stream)
    return context


def new_event(device: torch.device, *, timed: bool = False) -> Any:
    """A mark in a stream; two timed ones measure the milliseconds between them."""
    return _module(device).Event(enable_timing=timed)


def pins_memory(device: torch.device) -> bool:
    """Whether copies from page-locked host memory run beside the computation there."""
    return is_accelerator(device) and has_streams(device)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether an accelerator has bfloat16 in hardware; False where its backend does not say."""
    ask = getattr(_module(device), "is_bf16_supported", None)
    return ask is not None and bool(ask(including_emulation=False))


def convolves_in_bfloat16(device: torch.device) -> bool:
    """Whether convolutions are faster there in bfloat16."""
    if device.type != "cpu":
        return computes_bfloat16(device)
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return ask is not None and bool(ask())


@functools.cache
def has_float64(kind: str) -> bool:
    """Whether a kind of device has float64; MPS has not."""
    try:
        torch.empty(0, dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has no float64."""
    return torch.float64 if has_float64(device.type) else torch.float32


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU where the device has no float64."""
    return device if has_float64(device.type) else torch.device("cpu")


def has_fused_steps(device: torch.device) -> bool:
    """Whether torch's optimizers step there in one kernel."""
    return device.type in ("cpu", "cuda")


def prefers_channels_last(device: torch.device) -> bool:
    """Whether convolutions are faster there when channels are last in memory."""
    return device.type in ("cpu", "cuda")


def described() -> dict[str, str]:
    """Every accelerator by its name, such as ``cuda:0``, with its model and memory."""
    return {str(one): _description(one) for one in devices_here() if is_accelerator(one)}


def model_names() -> list[str]:
    """What the maker calls each accelerator."""
    return [_model_name(one) for one in devices_here() if is_accelerator(one)]


def _module(device: torch.device) -> Any:
    """torch's module of a kind, such as ``torch.cuda``; for a CPU that has nothing, None."""
    return torch.get_device_module(device) if is_accelerator(device) else None


def _is_started(kind: torch.device) -> bool:
    ask = getattr(_module(kind), "is_initialized", None)
    return True if ask is None else bool(ask())


def _model_name(device: torch.device) -> str:
    ask = getattr(_module(device), "get_device_name", None)
    return f"{device.type} device" if ask is None else str(ask(device))


def _description(device: torch.device) -> str:
    ask = getattr(_module(device), "get_device_properties", None)
    total = None if ask is None else getattr(ask(device), "total_memory", None)
    memory = "" if total is None else f", {total / 2**30:.0f} GiB"
    return f"{_model_name(device)}{memory}"
