"""SIGTERM ends a warm start cleanly: the step is finished and what is finished is written."""

from __future__ import annotations

import logging
import multiprocessing.util
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """The warm start was stopped by SIGTERM; the exit status is the shell's for it, 143."""

    def __init__(self, message: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


class StopRequest:
    """Notes that SIGTERM came, until the work reaches a point where it can stop."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Stop here if SIGTERM has come.

        Raises:
            Interrupted: SIGTERM has come.
        """
        if self.requested:
            raise Interrupted("stopped by SIGTERM")


@contextmanager
def stoppable(kept_in: object | None, *, log_place: bool = True) -> Iterator[StopRequest]:
    """Inside, SIGTERM is only noted; afterwards it has its earlier effect.

    Only the main thread receives signals: in other threads, or without a place where finished work
    is kept, nothing is changed.

    Args:
        kept_in: where finished work is kept; None for nowhere.
        log_place: whether to log where that is.
    """
    stop_request = StopRequest()
    if kept_in is None or threading.current_thread() is not threading.main_thread():
        yield stop_request
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop_request.requested = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop_request
    except Interrupted:
        if log_place:
            logger.warning(
                "stopped by SIGTERM; what had finished is kept in %s: run the same command to "
                "resume",
                kept_in,
            )
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if stop_request.requested:
            if before in (None, signal.SIG_DFL):
                # Dying of a signal, Python leaves them out. Other functions of atexit may be those
                # of a process that has forked this one.
                multiprocessing.util._run_finalizers()  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)
