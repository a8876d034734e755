"""Runs of a small warm start that faults can be injected into, and what they left.

Importing torch costs seconds, so the script imports everything once and forks a child for every
run. The child is a real elastic agent, its ranks are real processes that talk over Gloo, and
signals, disks and networks are the kernel's own.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.ranks import Job, run_agent, run_script


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


_CODES: dict[int, int] = {}
"""How processes of all runs ended: one run may take note of another's."""


class Run:
    """A job that was started: its agents, its ranks, and how they end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        job.folder.mkdir(parents=True, exist_ok=True)
        start = (lambda node: run_script(job)) if job.local else partial(run_agent, job)
        self.agents = [
            forked(partial(start, node), job.folder / f"log_{node}")
            for node in range(len(job.namespaces))
        ]
        self.codes = _CODES
        self.hung, self.struck = False, 0.0
        self.killed = False
        """Whether a rank was killed."""
        self.orphan_seconds = 0.0
        """How long ranks have outlived all agents."""
        self._agents_gone: float | None = None

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
        self.killed = True

    def others_ended(self, rank: int) -> bool:
        """Whether all other ranks have come to the end of their program, or were ended."""
        ended = {int(e[1]) for e in self.events("end")}
        ended |= {one for one, pid in self.pids().items() if not exists(pid)}
        return ended >= set(range(self.job.ranks)) - {rank}

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
        agents = [pid for pid in self.agents if exists(pid)]
        ranks = [pid for pid in map(int, {e[3] for e in self.events("pid")}) if exists(pid)]
        if not agents:
            self._agents_gone = self._agents_gone or time.monotonic()
            self.orphan_seconds = time.monotonic() - self._agents_gone if ranks else 0.0
        return [*agents, *ranks]

    def wait(self, limit: float, until: Callable[[], bool] = lambda: False) -> float:
        """Wait for the end of all processes; after the limit they are killed and it has hung."""
        began, gone = time.monotonic(), None
        while not until():
            here, now = self.alive(), time.monotonic()
            if here:
                gone = None
            elif gone is None:
                gone = now  # a process that was forked a moment ago has not noted its pid yet
            elif now - gone > 0.1:
                break
            if here and now - began > limit:
                self.hung = True
                self._show_stacks()
                self.kill()
                break
            time.sleep(0.005)
        self.reap()
        return (time.monotonic() if gone is None else gone) - began

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

    def stop_agents(self) -> None:
        """Ask the agents that are left to end."""
        for pid in self.agents:
            if exists(pid):
                os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill whatever is left."""
        while left := self.alive():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def ranks(self) -> dict[int, dict[str, Any]]:
        """The summaries of all ranks; a killed one has none."""
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
