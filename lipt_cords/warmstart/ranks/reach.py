"""Reaching the store of the messages: within a time, and with the cause where that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.1


class NoAnswer(Exception):
    """A call did not return in time."""


def within(seconds: float, call: Callable[[], T], on_wait: Callable[[], None] = lambda: None) -> T:
    """What a call returns, if it does so in time.

    torch waits without end for a server that accepts a connection and stays silent, and handles no
    signal meanwhile. So the call runs in a thread, which is left behind.

    Args:
        seconds: at most so long.
        call: what to run.
        on_wait: called while waiting; may raise, to stop.

    Raises:
        NoAnswer: it took longer.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="lipt-reach", daemon=True).start()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 or answer.done():
        on_wait()
        with suppress(FutureTimeout):
            return answer.result(timeout=min(LOOK_SECONDS, max(left, 0)))
    raise NoAnswer


def why_not(error: Exception, address: str, seconds: float) -> str:
    """The likely cause for which the store at an address was not reached, and what to do.

    Args:
        error: what torch raised, or :class:`NoAnswer`.
        address: MASTER_ADDR:MASTER_PORT.
        seconds: how long was waited (``join_timeout``).
    """
    if isinstance(error, NoAnswer):
        return (
            f"{address} did not answer within {seconds:g} s (join_timeout) as the store of "
            "torch.distributed does. If something listens there, it is another program: set "
            "MASTER_PORT to a free port of rank 0's machine, on all ranks"
        )
    first = str(error).partition("\n")[0]
    if isinstance(error, ValueError):  # a variable is missing, or is no number
        return f"{first}. Start the ranks by torchrun, or set what it sets"
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return (
            f"rank 0 cannot listen at {address}, because another program does already: set "
            f"MASTER_PORT to a free port, on all ranks. {first}"
        )
    return (
        f"no answer from {address} within {seconds:g} s (join_timeout): check MASTER_ADDR and "
        f"MASTER_PORT, that rank 0 runs, and the network. {first}"
    )
