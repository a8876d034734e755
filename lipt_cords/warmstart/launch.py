"""The same workers in one process or in many: ranks that share the work of torch.distributed.

A group of one rank exchanges nothing, so the code that uses it reads the same with and without
processes. Errors travel too: what one rank raises, every rank raises, and nobody waits for ever.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lipt_cords.config import Launch
from lipt_cords.data import resolve_device
from lipt_cords.warmstart.averaging import State

T = TypeVar("T")
Outcome = tuple[Any, Exception | None]

_GROUPS = count()
"""Numbers the groups that this process started; ranks start theirs in the same order."""


class Ranks:
    """This process among those that share a warm start.

    Args:
        rank: the number of this process.
        size: how many there are.
        device: where this rank trains.
        channel: where tensors must lie to be exchanged: a GPU for NCCL, the CPU for Gloo.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, channel: torch.device | None = None
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._channel = channel or torch.device("cpu")
        self.bytes_communicated = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which reports and draws."""
        return self.rank == 0

    def everywhere(self, work: Callable[[], T]) -> list[T]:
        """Run work on every rank and give everyone all outcomes, in rank order.

        Raises:
            Exception: the first rank's error, on every rank.
        """
        if self.size == 1:
            return [work()]
        mine = _attempt(work)
        gathered: list[Any] = [None] * self.size
        payload = _pickled(mine)
        dist.all_gather_object(gathered, payload)
        self.bytes_communicated += sum(map(len, gathered)) * (self.size - 1)
        outcomes = [pickle.loads(part) for part in gathered]
        outcomes[self.rank] = mine  # its error keeps its traceback
        return [_value(outcome) for outcome in outcomes]

    def on_main(self, work: Callable[[], T]) -> T:
        """Run work on rank 0 and give everyone its outcome, or raise its error everywhere."""
        if self.size == 1:
            return work()
        mine: Outcome = _attempt(work) if self.is_main else (None, None)
        box = [_pickled(mine)]
        dist.broadcast_object_list(box, src=0)
        self.bytes_communicated += len(box[0]) * (self.size - 1)
        outcome: T = _value(mine if self.is_main else pickle.loads(box[0]))
        return outcome

    def broadcast(self, state: State, source: int = 0) -> State:
        """Give everyone one rank's state dict, bit for bit, as one flat buffer.

        Args:
            state: the values on the source; on the others, anything of the same names and shapes.
            source: the rank that has it.
        """
        if self.size == 1:
            return state
        buffer = _to_bytes(state).to(self._channel)
        dist.broadcast(buffer, src=source)
        self.bytes_communicated += buffer.numel() * (self.size - 1)
        return _from_bytes(buffer, state)

    def to_main(self, state: State | None, owner: int, like: State) -> State | None:
        """Move one rank's state dict to rank 0, bit for bit; the others receive None.

        Args:
            state: the values, on the owner alone.
            owner: the rank that has them.
            like: names, shapes and dtypes, on every rank.
        """
        if owner == 0:
            return state if self.is_main else None
        size = sum(tensor.nbytes for tensor in like.values())
        self.bytes_communicated += size
        if self.rank == owner and state is not None:
            dist.send(_to_bytes(state).to(self._channel), dst=0)
        elif self.is_main:
            buffer = torch.empty(size, dtype=torch.uint8, device=self._channel)
            dist.recv(buffer, src=owner)
            return _from_bytes(buffer, like)
        return None

    def all_reduce(self, flat: Tensor, dtype: torch.dtype) -> Tensor:
        """Sum a vector over all ranks in one exchange.

        Args:
            flat: this rank's part, float64.
            dtype: in which it travels; a rank alone keeps float64.
        """
        if self.size == 1:
            return flat
        buffer = flat.to(self._channel, dtype)
        dist.all_reduce(buffer)
        self.bytes_communicated += 2 * buffer.nbytes * (self.size - 1)
        return buffer.to(flat)


@contextmanager
def open_ranks(launch: Launch, device: str) -> Iterator[Ranks]:
    """Join the processes of this run.

    A process group that the caller made is used and left alone. Otherwise one is made from what
    ``torchrun`` put into the environment, with NCCL on GPUs and Gloo elsewhere, and destroyed at
    the end.

    Args:
        launch: ``serial``; ``torchrun``; or ``auto``, torchrun where there is one.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:0``; without a number each rank of a machine
            takes its own GPU.

    Raises:
        ValueError: ``torchrun`` asked for outside of it.
    """
    started = dist.is_available() and dist.is_initialized()
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if launch == "torchrun" and not (started or launched):
        raise ValueError(
            "launch='torchrun' needs the processes that torchrun starts, and found no RANK and "
            "WORLD_SIZE: run `torchrun --nproc-per-node N script.py`, or set launch='serial'"
        )
    if launch == "serial" or not (started or launched):
        yield Ranks(0, 1, _ready(resolve_device(device)))
        return
    local = int(os.environ.get("LOCAL_RANK", dist.get_rank() if started else os.environ["RANK"]))
    where = _ready(_own_device(device, local))
    with torch.cuda.device(where) if where.type == "cuda" else nullcontext():
        if not started:
            _start_group(_backend(device, where))
        try:
            nccl = where.type == "cuda" and "nccl" in str(dist.get_backend())
            channel = where if nccl else torch.device("cpu")
            yield Ranks(dist.get_rank(), dist.get_world_size(), where, channel)
        finally:
            if not started:
                dist.destroy_process_group()


def _ready(device: torch.device) -> torch.device:
    """Wake a GPU, so that its random state can be saved before anyone draws from it."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
    return device


def _start_group(backend: str) -> None:
    """Start the default process group from torchrun's environment.

    torchrun's store outlives a group, and a second group of one process would read the first
    one's addresses from it: every group gets keys of its own.
    """
    # Ranks wait while others train, for ever if need be; torchrun notices those that died.
    patience = timedelta(days=1)
    store, rank, size = next(iter(rendezvous("env://", timeout=patience)))
    keys = PrefixStore(f"lipt_cords/{next(_GROUPS)}", store)
    dist.init_process_group(backend, store=keys, rank=rank, world_size=size, timeout=patience)


def _own_device(device: str, local_rank: int) -> torch.device:
    where = resolve_device(device)
    if where.type == "cuda" and ":" not in device:
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return where


def _backend(device: str, where: torch.device) -> str:
    """NCCL on GPUs, unless ranks share one, which NCCL refuses."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    gpus = 1 if ":" in device else torch.cuda.device_count()
    return "nccl" if where.type == "cuda" and ranks_here <= gpus else "gloo"


def _attempt(work: Callable[[], Any]) -> Outcome:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _value(outcome: Outcome) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value


def _pickled(outcome: Outcome) -> bytes:
    """An outcome as bytes; an error that cannot travel is told by its words."""
    value, error = outcome
    if error is not None and type(error).__module__ != "builtins":
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return pickle.dumps((value, error))


def _by_itemsize(state: State) -> list[str]:
    """Names with wide dtypes first, so that every entry is aligned in a byte buffer."""
    return sorted(state, key=lambda name: -state[name].element_size())


def _to_bytes(state: State) -> Tensor:
    parts = [state[name].contiguous().reshape(-1) for name in _by_itemsize(state)]
    return torch.cat([part.view(torch.uint8) for part in parts])


def _from_bytes(buffer: Tensor, like: State) -> State:
    state, offset = {}, 0
    for name in _by_itemsize(like):
        model = like[name]
        part = buffer[offset : offset + model.nbytes].view(model.dtype)
        state[name] = part.view(model.shape).to(model.device, copy=True)
        offset += model.nbytes
    return {name: state[name] for name in like}
