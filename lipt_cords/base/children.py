"""Processes that this package starts: they end with the process that started them.

A parent that is killed can tell its children nothing, so each child watches for its end: by the
kernel's signal on Linux, and everywhere by a thread that waits for a pipe which the parent holds.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

logger = logging.getLogger(__name__)

LOADED_LATE = ("torch._dynamo", "torch.utils.flop_counter", "torchvision.transforms.v2")
"""Modules that torch imports at the first step of every process, which takes seconds."""
PR_SET_PDEATHSIG = 1
LOOK_SECONDS = 1.0
"""Between two looks at whether the parent lives, beside the pipe."""
LAST_SECONDS = 5.0
"""To wait for a process that was killed: one in an uninterruptible read ends with that."""


def start_context(*modules: str) -> BaseContext:
    """How processes are started: by a server that imports torch once and forks, where there is one.

    The server holds no threads, and ends with this process.

    Args:
        modules: names of modules that the server imports, if it does not run yet.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*modules, *LOADED_LATE])
    return context


def end_with_parent() -> None:
    """In a new process: end, without a word, as soon as the one that started it has ended.

    Ctrl-C is left to the parent, which then ends its children.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # reaches stopped ones too
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        raise RuntimeError("a process that multiprocessing did not start has no parent to watch")
    watch = (parent.sentinel, parent.pid)
    threading.Thread(target=_end_after, args=watch, name="lipt-parent", daemon=True).start()


def _end_after(sentinel: int, pid: int) -> None:
    # A process that the parent forked keeps the pipe open. The parent's handle tells then, or its
    # number, which another process may have later.
    ends, watched = [sentinel], False
    with suppress(AttributeError, OSError):  # only on Linux; or it has ended
        ends.append(os.pidfd_open(pid))
        watched = True
    while not wait(ends, timeout=LOOK_SECONDS) and (watched or process_exists(pid)):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def process_exists(pid: int) -> bool:
    """Whether a process of this number exists, of any user; True where that cannot be asked."""
    if sys.platform == "win32":  # there this signal would end it
        return True
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def end_all(processes: Sequence[BaseProcess], patience: float, *, ask: bool = True) -> None:
    """End processes and wait for their end, whatever they do; also if this is interrupted.

    Args:
        processes: that were started.
        patience: seconds to end by themselves.
        ask: whether to ask them to, by SIGTERM.
    """
    try:
        for one in processes if ask else ():
            one.terminate()
        until = time.monotonic() + patience
        for one in processes:
            one.join(max(0.0, until - time.monotonic()))
    finally:
        for one in processes:
            if one.is_alive():
                one.kill()
        for one in processes:
            one.join(LAST_SECONDS)
            if one.is_alive():
                logger.warning("process %s was killed and has not ended yet", one.pid)
            else:
                one.close()


def how_it_ended(code: int) -> str:
    """What an exit code says of a process that should have gone on.

    >>> how_it_ended(-9), how_it_ended(0)
    ('was killed by SIGKILL (often by too little memory)', 'ended with exit code 0')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        hint = " (often by too little memory)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"was killed by signal {-code}"


def is_stopped(pid: int) -> bool:
    """Whether a process stands still by SIGSTOP, SIGTSTP or a debugger; known on Linux alone."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
    return False
