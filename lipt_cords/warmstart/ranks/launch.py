"""The processes of a warm start, and their rendezvous."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store
from torch.distributed.rendezvous import rendezvous

from lipt_cords.base.devices import (
    accelerator_count,
    current,
    exchange_backend,
    initialize,
    of_rank,
    resolve_device,
)
from lipt_cords.data.reads import on_read
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.ranks.conversation import Conversation, LostContact
from lipt_cords.warmstart.ranks.outcome import failed_elsewhere
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.ranks.reach import NoAnswer, why_not, within
from lipt_cords.warmstart.ranks.rendezvous import run_rendezvous

_RENDEZVOUS_COUNT = count()
"""Numbers the rendezvous of this process; all ranks have the same order."""


def local_processes(config: WarmStartConfig) -> int | None:
    """The number of processes to start for a warm start; None: it runs in this process.

    Raises:
        ValueError: ``launch="torchrun"`` outside of it, or another number of processes than it
            started.
    """
    grouped = _started() or _launched()
    if config.launch == "serial":
        return None
    if config.launch == "torchrun" or (config.launch == "auto" and grouped):
        if not grouped:
            raise ValueError(
                "launch='torchrun' needs the processes that torchrun starts, and found no RANK "
                "and WORLD_SIZE: run `torchrun --nproc-per-node N script.py`, or set "
                "launch='serial'"
            )
        size = group_size(config)
        if config.processes is not None and config.processes != size:
            raise ValueError(
                f"processes={config.processes}, but this run has {size} already: leave processes "
                "out under torchrun"
            )
        return None
    if config.launch == "processes" and grouped:
        raise ValueError(
            "launch='processes' would start processes inside of a process group: set "
            "launch='auto' to use the group"
        )
    gpus = 0 if config.device == "cpu" or ":" in config.device else accelerator_count()
    if config.launch == "auto" and config.processes is None and gpus < 2:
        return None
    wanted = config.processes or gpus or len(os.sched_getaffinity(0))
    fewer = config.processes is None and "num_workers" in config.model_fields_set
    return min(wanted, config.num_workers) if fewer else wanted


def group_size(config: WarmStartConfig) -> int:
    """The number of processes that share a warm start which starts none itself."""
    if config.launch == "serial" or not (_started() or _launched()):
        return 1
    return dist.get_world_size() if _started() else int(os.environ["WORLD_SIZE"])


@contextmanager
def threads_of(config: WarmStartConfig) -> Iterator[None]:
    """Use the number of CPU threads in the options, if given."""
    before = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        yield
    finally:
        if config.threads is not None:
            torch.set_num_threads(before)


@contextmanager
def open_ranks(
    config: WarmStartConfig, on_progress: Callable[[], None] = lambda: None
) -> Iterator[Ranks]:
    """Join the processes of this run.

    A process group that the caller made is used and not destroyed. Otherwise one is made from the
    environment variables of ``torchrun``, with NCCL on GPUs and Gloo elsewhere, and destroyed at
    the end.

    Args:
        config: ``launch``, ``device`` (without a number each rank of a machine takes its own
            GPU), ``join_timeout``, ``worker_timeout`` and ``min_workers``.
        on_progress: called between steps and while waiting; may raise, to stop.

    Raises:
        ValueError: the rendezvous fails: no answer at the address, different world sizes, or a
            group whose backend does not fit the device.
    """
    started = _started()
    if config.launch == "serial" or not (started or _launched()):
        ranks = Ranks(0, 1, initialize(resolve_device(config.device)), on_progress=on_progress)
        with on_read(ranks.progress):
            yield ranks
        return
    local = int(os.environ.get("LOCAL_RANK", dist.get_rank() if started else os.environ["RANK"]))
    where = initialize(of_rank(resolve_device(config.device), local))
    with current(where):
        if not started:
            _start_group(_backend(config.device, where), config, on_progress)
        talk = None
        try:
            backend, own = str(dist.get_backend()), exchange_backend(where)
            direct = own != "gloo" and own in backend
            if "nccl" in backend and not direct:
                raise ValueError(
                    f"the process group exchanges over NCCL, which moves only GPU memory, but "
                    f"device={config.device!r} trains on {where}: use a Gloo group, or a GPU"
                )
            rank, size = dist.get_rank(), dist.get_world_size()
            keys = _rendezvous(
                _get_default_store(), rank, size, str(dist.get_backend()), config, on_progress
            )
            store = PrefixStore("talk", keys)
            talk = Conversation(
                store, rank, size, config.worker_timeout, on_progress, failed_elsewhere
            )
            channel = where if direct else torch.device("cpu")
            ranks = Ranks(
                rank, size, where, channel, talk if size > 1 else None,
                tolerant=config.min_workers is not None, on_progress=on_progress,
            )  # fmt: skip
            with _ended_together(ranks), on_read(ranks.progress):
                yield ranks
        finally:
            if talk is not None:
                talk.close()
            if not started:
                dist.destroy_process_group()


@contextmanager
def _ended_together(ranks: Ranks) -> Iterator[None]:
    """Inside, an error of this rank alone ends the others too, at once and with its reason."""
    try:
        yield
    except LostContact:
        raise  # of others, who decide for themselves
    except Exception as error:
        ranks.fail(error)
        ranks.leave()
        raise
    ranks.leave()


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()


def _launched() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _start_group(backend: str, config: WarmStartConfig, on_wait: Callable[[], None]) -> None:
    """Start the default process group from torchrun's environment.

    The store of torchrun outlives a group and even the processes, and a new group would read old
    addresses from it: so every group has its own keys.
    """
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    patience = timedelta(seconds=config.join_timeout)
    try:
        store, rank, size = within(
            config.join_timeout, lambda: next(rendezvous("env://", timeout=patience)), on_wait
        )
    except (RuntimeError, ValueError, NoAnswer) as error:
        raise ValueError(
            f"rank {os.environ['RANK']} could not join the others: "
            f"{why_not(error, address, config.join_timeout)}"
        ) from error
    keys = _rendezvous(store, rank, size, backend, config, on_wait)
    # Exchanges begin when all ranks are known to be present, so a short timeout is enough.
    try:
        dist.init_process_group(
            backend, store=keys, rank=rank, world_size=size,
            timeout=timedelta(seconds=config.worker_timeout),
        )  # fmt: skip
    except RuntimeError as error:  # torch's network errors
        raise LostContact(
            f"rank {rank} could not connect to the other ranks ({str(error).splitlines()[0]}): "
            "one died, or the network is cut; run again"
        ) from error


def _rendezvous(
    store: Store,
    rank: int,
    size: int,
    backend: str,
    config: WarmStartConfig,
    on_wait: Callable[[], None],
) -> Store:
    """Check that all ranks were started alike, before any collective call.

    Returns:
        A store with a prefix that was never used before.
    """
    root = PrefixStore(f"lipt_cords/{next(_RENDEZVOUS_COUNT)}", store)
    talk = Conversation(root, rank, size, config.join_timeout, on_wait)
    try:
        name, views = run_rendezvous(talk, f"WORLD_SIZE={size}, {backend}")
    except LostContact as gone:
        raise ValueError(
            f"rank {rank} of {size} waited {config.join_timeout:g} s (join_timeout) for the "
            f"others: {gone}. Start {size} ranks, each with its own RANK from 0 to {size - 1}"
        ) from gone
    finally:
        talk.close()
    if len(set(views.values())) > 1:
        starts = "; ".join(f"rank {one}: {view}" for one, view in sorted(views.items()))
        raise ValueError(f"the ranks were started differently ({starts}): use one command for all")
    return PrefixStore(name, root)


def _backend(device: str, where: torch.device) -> str:
    """What moves the device's memory itself, unless ranks share one, which NCCL refuses."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    gpus = 1 if ":" in device else accelerator_count()
    return exchange_backend(where) if ranks_here <= gpus else "gloo"
