"""What a faulted run consists of: a small warm start, one rank of it, and the agent of a node.

The agent is the real one behind ``torchrun``, with shorter waits. What a rank does is seen through
a file of events to which it appends: its pid, the phase that it enters, and the workers that it
starts to train.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # at the first step torch would import it, for seconds, in every rank
from torch import nn
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher import api as launcher
from torch.distributed.launcher.api import LaunchConfig
from torch.utils.data import Dataset

from lipt_cords import LiPTWarmStart
from lipt_cords.base.randomness import isolated_rng
from lipt_cords.models.state import digest
from lipt_cords.warmstart import team
from lipt_cords.warmstart.clock import Clock
from lipt_cords.warmstart.ranks import attempt
from lipt_cords.warmstart.ranks.handed import Handed

OPTIONS: dict[str, Any] = {
    "num_workers": 6, "local_steps": 12, "rounds": 3, "common_steps": 6, "batch_size": 16,
    "batchnorm_refresh": "always", "device": "cpu", "threads": 1, "progress": False,
    "worker_timeout": 8.0, "join_timeout": 20.0,
}  # fmt: skip
ADDRESSES = ("10.213.77.1", "10.213.77.2")
"""Of two nodes in namespaces of their own."""
SAMPLES, CLASSES = 160, 4
PR_SET_PDEATHSIG = 1
LEAVE, HANG = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
"""Signals by which a rank ends with exit code 0, or hangs, wherever it is."""


class Images(Dataset[Any]):
    """Learnable images, each read in a moment: noise, and a bright bar whose place is the class.

    Args:
        count: how many.
        seed: of the noise.
        huge: samples whose inputs are finite, and far too large to train on.
    """

    def __init__(self, count: int, seed: int = 0, huge: Any = ()) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (count,), generator=draw)
        self.images = torch.randn(count, 1, 8, 8, generator=draw) * 0.7
        self.images[torch.arange(count), 0, 2 * self.labels] += 1.5
        self.images[list(huge)] *= 1e30

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(1e-4)
        return self.images[index], int(self.labels[index])


def slow_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy that takes a moment without taking the processor."""
    time.sleep(0.002)
    return nn.functional.cross_entropy(logits, labels)


def make_net() -> nn.Module:
    """A tiny net with a convolution, BatchNorm, dropout and a linear head."""
    with isolated_rng(0, "fault net"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(36, CLASSES),
        )  # fmt: skip


def shards_of(workers: int) -> list[torch.Tensor]:
    """Disjoint shards, dealt in turn."""
    return [torch.arange(worker, SAMPLES, workers) for worker in range(workers)]


@dataclass(frozen=True)
class Job:
    """One command: what is fitted, where it keeps its work, and in which processes.

    Attributes:
        folder: of the trial; files of ranks and agents go there.
        options: of the warm start, over :data:`OPTIONS`.
        work_dirs: one a node.
        ranks: processes of a node.
        restarts: how often the agent may start them again.
        namespaces: network namespace of every node; None for this process's own.
        huge: the worker whose shard cannot be trained on, or None.
        endpoint: where the nodes meet.
        local: the ranks are local processes of a script, not those of an agent.
    """

    folder: Path
    work_dirs: tuple[Path, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    ranks: int = 3
    restarts: int = 0
    namespaces: tuple[str | None, ...] = (None,)
    huge: int | None = None
    endpoint: str = "localhost:0"
    local: bool = False

    @property
    def scratch(self) -> Path:
        """Where temporary files of the command go, also when it runs again."""
        return self.work_dirs[0].parent / "tmp"

    @property
    def speakers(self) -> int:
        """How many processes say how they ended: each rank, or the script."""
        return 1 if self.local else self.ranks * len(self.namespaces)


def fit(job: Job, launch: str, work_dir: Path | None) -> Any:
    """The warm start that every scenario runs, in this process or as one rank."""
    options = {**OPTIONS, **job.options, "launch": launch, "work_dir": work_dir}
    if launch == "processes":
        options |= {"processes": job.ranks, "max_restarts": job.restarts}
    shards = shards_of(options["num_workers"])
    huge = () if job.huge is None else shards[job.huge].tolist()
    train, held_out = Images(SAMPLES, huge=huge), Images(40, seed=1)
    return LiPTWarmStart(**options).fit(make_net(), train, held_out, loss=slow_loss, shards=shards)


def summary_of(result: Any) -> dict[str, Any]:
    """The summary of a rank's result."""
    last = result.report.workers
    return {
        "ended": "merged",
        "digest": digest(result.state_dict),
        "left_out": {str(one.worker): one.reason for one in last if not one.kept},
        "notes": list(result.report.notes),
    }


def watched(folder: Path, rank: int) -> Callable[..., None]:
    """In a rank: have its events written down, and let signals make it leave or hang.

    Returns:
        Notes an event.
    """
    events = os.open(folder / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*words: object) -> None:
        os.write(events, (" ".join(map(str, (time.monotonic(), rank, *words))) + "\n").encode())

    signal.signal(LEAVE, lambda *_: os._exit(0))
    signal.signal(HANG, lambda *_: time.sleep(100_000))
    note("pid", os.getpid())
    note("phase", "join")
    enter, run_workers = Clock.enter, team.run_workers

    def noted_phase(clock: Clock, name: str) -> None:
        note("phase", "save" if name == "result" else name)
        enter(clock, name)

    def noted_workers(tasks: Any) -> Any:
        for task in tasks:
            note("train", task.round, task.worker)
            yield from run_workers([task])

    Clock.enter, team.run_workers = noted_phase, noted_workers  # type: ignore[method-assign]
    return note


def run_rank(job: Job, node: int) -> None:
    """What each rank of an agent runs; its events and its end are written beside the work."""
    rank = int(os.environ["RANK"])
    agent = os.getppid()
    # torchrun's ranks are programs of their own, which do not hear of its death.
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the agent's
    note = watched(job.folder, rank)
    words: dict[str, Any] = {}
    try:
        words = summary_of(fit(job, "torchrun", job.work_dirs[node]))
    except BaseException as error:
        words = {"ended": "error", "type": type(error).__name__, "text": str(error)}
        raise
    finally:
        note("end", words.get("ended"))
        (job.folder / f"rank_{rank}.json").write_text(json.dumps(words))
        # The program ends here; what torch does with a function's value needs the agent.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != agent:
            os._exit(int(words.get("ended") != "merged"))


def run_script(job: Job) -> None:
    """A script that fits in local processes; they are forked, to start in a moment."""
    start = attempt._run

    def run(work: Any, handed: Any, sender: Any, beats: Any, rank: int, *more: Any) -> None:
        note = watched(job.folder, rank)
        start(work, handed, sender, beats, rank, *more)
        note("end", "said")

    attempt._run = run  # type: ignore[assignment]
    attempt.start_context = lambda *modules: multiprocessing.get_context("fork")
    Handed.open = lambda handed: handed._values  # type: ignore[attr-defined]
    tempfile.tempdir = str(job.scratch)
    job.scratch.mkdir(exist_ok=True)
    words: dict[str, Any] = {}
    began = time.monotonic()
    try:
        words = summary_of(fit(job, "processes", job.work_dirs[0]))
    except BaseException as error:
        words = {"ended": "error", "type": type(error).__name__, "text": str(error)}
        raise
    finally:
        words["seconds"] = time.monotonic() - began
        (job.folder / "rank_0.json").write_text(json.dumps(words))


def run_agent(job: Job, node: int) -> None:
    """What each node runs: what ``torchrun`` runs, with a shorter wait for agents that are gone."""
    if (namespace := job.namespaces[node]) is not None:
        with Path(f"/var/run/netns/{namespace}").open() as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter network namespace {namespace}")
        os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
        # torch's agent waits for its store until the kernel gives the connection up: by default
        # that takes a quarter of an hour, here some seconds. The ranks do not need it.
        with suppress(OSError):
            Path("/proc/sys/net/ipv4/tcp_retries2").write_text("3")
    nodes = len(job.namespaces)
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=job.ranks,
        run_id="faults",
        rdzv_backend="c10d",
        rdzv_endpoint=job.endpoint,
        rdzv_configs={"timeout": 20, "read_timeout": 5, "is_host": str(node == 0)},
        max_restarts=job.restarts,
        monitor_interval=0.05,
        start_method="fork",
        local_addr=None if nodes == 1 else ADDRESSES[node],
        logs_specs=DefaultLogsSpecs(log_dir=str(job.folder / "elastic")),
    )
    launcher.LocalElasticAgent = partial(
        launcher.LocalElasticAgent, exit_barrier_timeout=1, shutdown_timeout=2
    )
    launcher.elastic_launch(config, run_rank)(job, node)
