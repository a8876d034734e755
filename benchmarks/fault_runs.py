"""Real process groups of a small warm start that faults can be injected into, and what they left.

Importing torch costs seconds, so the script imports everything once and forks a child for every
run. The child is a real elastic agent, the one behind ``torchrun``, its ranks are real processes
that talk over Gloo, and signals, disks and networks are the kernel's own. What the ranks do is
seen through a file of events to which they append: their pids, the phase that they enter, and the
workers that they start to train.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
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
from lipt_cords.randomness import isolated_rng
from lipt_cords.warmstart import crew
from lipt_cords.warmstart.cost import Clock
from lipt_cords.warmstart.folder import digest

OPTIONS: dict[str, Any] = {
    "num_workers": 6, "local_steps": 12, "rounds": 3, "common_steps": 6, "batch_size": 16,
    "batchnorm_refresh": "always", "device": "cpu", "threads": 1, "progress": False,
    "worker_timeout": 8.0, "join_timeout": 20.0,
}  # fmt: skip
ADDRESSES = ("10.213.77.1", "10.213.77.2")
"""Of two nodes in namespaces of their own."""
SAMPLES, CLASSES = 160, 4
PR_SET_PDEATHSIG = 1


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
    """

    folder: Path
    work_dirs: tuple[Path, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    ranks: int = 3
    restarts: int = 0
    namespaces: tuple[str | None, ...] = (None,)
    huge: int | None = None
    endpoint: str = "localhost:0"


def fit(job: Job, launch: str, work_dir: Path | None) -> Any:
    """The warm start that every scenario runs, in this process or as one rank."""
    options = {**OPTIONS, **job.options, "launch": launch, "work_dir": work_dir}
    shards = shards_of(options["num_workers"])
    huge = () if job.huge is None else shards[job.huge].tolist()
    train, held_out = Images(SAMPLES, huge=huge), Images(40, seed=1)
    return LiPTWarmStart(**options).fit(make_net(), train, held_out, loss=slow_loss, shards=shards)


def told(result: Any) -> dict[str, Any]:
    """What a rank tells of its result."""
    last = result.report.workers
    return {
        "ended": "merged",
        "digest": digest(result.state_dict),
        "left_out": {str(one.worker): one.reason for one in last if not one.kept},
        "notes": list(result.report.notes),
    }


def _as_rank(job: Job, node: int) -> None:
    """What each rank runs; its events and its end are written beside the work."""
    rank = int(os.environ["RANK"])
    agent = os.getppid()
    # torchrun's ranks are programs of their own, which do not hear of its death.
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the agent's
    events = os.open(job.folder / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*words: object) -> None:
        os.write(events, (" ".join(map(str, (time.monotonic(), rank, *words))) + "\n").encode())

    note("pid", os.getpid())
    note("phase", "join")
    phase, run_workers = Clock.phase, crew.run_workers

    @contextmanager
    def noted_phase(clock: Clock, name: str) -> Any:
        note("phase", name)
        with phase(clock, name):
            yield
        if name == "refresh":
            note("phase", "save")

    def noted_workers(tasks: Any) -> Any:
        for task in tasks:
            note("train", task.round, task.worker)
            yield from run_workers([task])

    Clock.phase, crew.run_workers = noted_phase, noted_workers  # type: ignore[method-assign]
    words: dict[str, Any] = {}
    try:
        words = told(fit(job, "torchrun", job.work_dirs[node]))
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


def _as_agent(job: Job, node: int) -> None:
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
    launcher.LocalElasticAgent = partial(launcher.LocalElasticAgent, exit_barrier_timeout=1)
    launcher.elastic_launch(config, _as_rank)(job, node)


def forked(work: Callable[[], object], log: Path) -> int:
    """Run work in a child process whose output goes to a file; its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(target, stream)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.register(signal.SIGUSR1)
        torch.set_num_threads(1)
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


class Run:
    """A job that was started: its agents, its ranks, and how they end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        job.folder.mkdir(parents=True, exist_ok=True)
        self.agents = [
            forked(lambda node=node: _as_agent(job, node), job.folder / f"log_{node}")
            for node in range(len(job.namespaces))
        ]
        self.codes: dict[int, int] = {}
        self.hung, self.struck = False, 0.0

    def events(self, kind: str | None = None) -> list[list[str]]:
        """What ranks noted: time, rank, kind and the rest."""
        with suppress(FileNotFoundError):
            lines = (self.job.folder / "events").read_text().splitlines()
            return [w for w in map(str.split, lines) if kind is None or w[2] == kind]
        return []

    def pids(self) -> dict[int, int]:
        """Process of every rank, as last started."""
        return {int(rank): int(pid) for _, rank, _, pid in self.events("pid")}

    def kill_rank(self, rank: int) -> None:
        """Kill -9 a rank, unless its program has come to its end, as torch's then waits for it."""
        pid = self.pids()[rank]
        ended = [float(e[0]) for e in self.events("end") if e[1] == str(rank)]
        began = [float(e[0]) for e in self.events("pid") if e[1] == str(rank)]
        if ended and ended[-1] > began[-1]:
            raise ProcessLookupError
        os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Take note of whatever has ended; orphans are this process's children then."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self.codes[found[0]] = os.waitstatus_to_exitcode(found[1])

    def finished(self) -> set[tuple[str, str]]:
        """Round and worker of every record on the first node's disk."""
        records = self.job.work_dirs[0].glob("progress/round_*/worker_*.json")
        return {(str(int(p.parent.name[6:])), str(int(p.stem[7:]))) for p in records}

    def alive(self) -> list[int]:
        """Processes of this run that have not ended."""
        self.reap()
        return [
            p for p in (*self.agents, *map(int, {e[3] for e in self.events("pid")})) if exists(p)
        ]

    def wait(self, limit: float, until: Callable[[], bool] = lambda: False) -> float:
        """Wait for the end of all processes; after the limit they are killed and it has hung."""
        began = seen = time.monotonic()
        # A process that was forked a moment ago has not noted its pid yet.
        while (now := time.monotonic()) - seen < 0.1 and not until():
            if self.alive():
                seen = now
            if now - began > limit:
                self.hung = True
                self._show_stacks()
                self.kill()
                break
            time.sleep(0.005)
        self.reap()
        return seen - began

    def _show_stacks(self) -> None:
        """Have whatever is left write down in the log where it is."""
        names = {pid: f"rank {rank}" for rank, pid in self.pids().items()}
        for pid in self.alive():
            node = self.agents.index(pid) if pid in self.agents else 0
            with (self.job.folder / f"log_{node}").open("a") as log:
                log.write(f"\nhung: {names.get(pid, 'agent')}, pid {pid}\n")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill whatever is left."""
        while left := self.alive():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def ranks(self) -> dict[int, dict[str, Any]]:
        """What every rank told at its end; one that was killed tells nothing."""
        found = {}
        for path in sorted(self.job.folder.glob("rank_*.json")):
            with suppress(ValueError):
                found[int(path.stem.removeprefix("rank_"))] = json.loads(path.read_text())
        return found

    def report(self) -> str:
        """The agents' output, which holds the ranks' too."""
        return "\n".join(
            path.read_text(errors="replace") for path in sorted(self.job.folder.glob("log_*"))
        )


def exists(pid: int) -> bool:
    """Whether a process runs, or is stopped; not whether somebody has yet to ask for its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def lost(run: Run, finished: set[tuple[str, str]], since: float = 0.0) -> int:
    """How many workers that were finished were trained again, after a moment."""
    trained = {(e[3], e[4]) for e in run.events("train") if float(e[0]) > since}
    return len(trained & finished)
