"""One attempt of a warm start in local processes: they start, are watched, and all end."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

from torch._C._distributed_c10d import TCPStore

from lipt_cords.base.children import end_all, end_with_parent, start_context
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.ranks.conversation import LostContact
from lipt_cords.warmstart.ranks.outcome import Outcome, pack, unpack
from lipt_cords.warmstart.ranks.sigterm import Interrupted
from lipt_cords.warmstart.ranks.watch_ranks import RankView, Verdict, judge

HERE = "127.0.0.1"
LOOK_SECONDS = 0.1
LONGEST_LOOK = 1.0
"""Seconds that count between two looks: more, and this process itself stood still."""
GRACE = 5.0
"""Seconds to end by themselves when all is done or lost."""
STOP_GRACE = 30.0
"""Seconds to finish a step when SIGTERM came."""
MOST_WORDS = 10_000
"""Characters of an error that are passed on; more might not fit into a pipe."""

Work = Callable[[Any, Callable[[], None]], str | None]
"""Given what was handed over, and what to call at every progress; returns rank 0's answer."""


class Attempt:
    """Processes of one attempt.

    Args:
        config: the time-outs and ``min_workers``.
        count: how many ranks.
        work: what each runs.
        handed: its first argument, opened in each process.
        modules: that the server of processes imports.
    """

    def __init__(
        self, config: WarmStartConfig, count: int, work: Work, handed: Any, modules: tuple[str, ...]
    ) -> None:
        self._config = config
        context: Any = start_context(*modules)
        self._store, port = _store_on_this_machine(config.join_timeout)
        self._beats = context.RawArray(ctypes.c_uint64, count)
        self._processes: list[Any] = []
        self._receivers: list[Connection] = []
        self.views: list[RankView] = []
        try:
            for rank in range(count):
                receiver, sender = context.Pipe(duplex=False)
                self._receivers.append(receiver)
                with sender:
                    arguments = (work, handed, sender, self._beats, rank, count, port)
                    process = context.Process(
                        target=_run, args=arguments, name=f"lipt-rank-{rank}", daemon=False
                    )
                    process.start()
                self._processes.append(process)
                self.views.append(RankView(rank, process.pid))
        except BaseException:
            self._end(0.0)
            raise
        self._seen = [0] * count
        self._looked = time.monotonic()
        self._settled = 0.0

    def run(self, stop: Callable[[], None], *, last: bool) -> Verdict:
        """Watch the ranks until it is known how they end, and end them.

        Args:
            stop: called between looks; may raise, to stop.
            last: whether no other attempt may follow.
        """
        grace = 0.0
        try:
            while (verdict := judge(self.views, self._config, self._settled, last)) is None:
                stop()
                self._look()
            grace = GRACE
            return verdict
        except Interrupted:
            grace = STOP_GRACE
            raise
        except KeyboardInterrupt:
            grace = GRACE
            raise
        finally:
            self._end(grace)

    def _look(self) -> None:
        """Take note of what ranks said, of those that ended, and of progress."""
        open_ends = [r for r, one in zip(self._receivers, self.views, strict=True) if not one.over]
        alive = [p for p, one in zip(self._processes, self.views, strict=True) if not one.over]
        wait([*open_ends, *(one.sentinel for one in alive)], timeout=LOOK_SECONDS)
        now = time.monotonic()
        elapsed, self._looked = min(now - self._looked, LONGEST_LOOK), now
        for one in self.views:
            process, receiver = self._processes[one.rank], self._receivers[one.rank]
            # First the end: what it said before is then in the pipe.
            code = process.exitcode
            if not one.spoke:
                self._listen(one, receiver)
            one.exit_code = code
            beats = self._beats[one.rank]
            one.begun = beats > 0
            one.quiet = 0.0 if beats != self._seen[one.rank] else one.quiet + elapsed
            self._seen[one.rank] = beats
        if any(one.error is not None for one in self.views):
            self._settled += elapsed

    def _listen(self, one: RankView, receiver: Connection) -> None:
        try:
            if receiver.poll():
                one.answer, one.error = unpack(receiver.recv_bytes())
                one.spoke = True
        except EOFError:  # it ended, which its exit code explains
            pass

    def _end(self, grace: float) -> None:
        done = all(one.spoke and one.error is None for one in self.views)
        for one in self.views:
            if one.quiet > self._config.worker_timeout / 2 and not one.over:
                self._processes[one.rank].kill()  # it would not hear anything else
        try:
            end_all(self._processes, grace, ask=not done)
        finally:
            for receiver in self._receivers:
                receiver.close()
            del self._store


def _store_on_this_machine(patience: float) -> tuple[TCPStore, int]:
    """The store of the ranks' messages, which only this machine can reach."""
    with socket.socket() as listening:
        listening.bind((HERE, 0))
        listening.listen(socket.SOMAXCONN)
        port = listening.getsockname()[1]
        store = TCPStore(
            HERE, port, is_master=True, wait_for_workers=False,
            timeout=timedelta(seconds=patience), master_listen_fd=listening.detach(),
        )  # fmt: skip
    return store, port


def _run(
    work: Work, handed: Any, sender: Connection, beats: Any, rank: int, count: int, port: int
) -> None:
    """Run one rank; an error is said, because only a crash is worth another attempt."""
    end_with_parent()

    def progress() -> None:
        beats[rank] += 1

    progress()
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR=HERE, MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True",
    )  # fmt: skip
    outcome: Outcome
    try:
        outcome = (work(handed.open(), progress), None)
    except LostContact as lost:
        outcome = (None, LostContact(_short(str(lost))))
    except Exception as raised:
        outcome = (None, raised)
        if len(pack(outcome)) > MOST_WORDS:
            outcome = (None, RuntimeError(_short(f"{type(raised).__name__}: {raised}")))
    sender.send_bytes(pack(outcome))


def _short(text: str) -> str:
    return text if len(text) <= MOST_WORDS else text[:MOST_WORDS] + " ..."
