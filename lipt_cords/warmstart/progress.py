"""What is said while a warm start runs: a line at its beginning, and its steps.

Steps are a bar on a terminal. Elsewhere a command turns on plain lines, one every half minute; in a
program of the user nothing is said.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REDRAW_SECONDS = 0.1
logger = logging.getLogger(__name__)


LINE_SECONDS = 30.0
_said: ContextVar[set[str] | None] = ContextVar("said", default=None)
"""Lines that are not said again; None: every line is said."""
_hushed: ContextVar[bool] = ContextVar("hushed", default=False)
"""Whether nothing is announced."""
_plain_lines: ContextVar[bool] = ContextVar("plain_lines", default=False)
"""Whether steps are shown in plain lines where there is no terminal."""


def announce(line: str, shown: bool | None) -> None:
    """Say in one line what begins, on stderr, unless progress is turned off; and in the log."""
    logger.info("%s", line)
    said = _said.get()
    if shown is False or _hushed.get() or (said is not None and line in said):
        return
    if said is not None:
        said.add(line)
    say_on_stderr(line)


def say_on_stderr(line: str) -> None:
    """A plain line on stderr, as wide as it is."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


@contextmanager
def each_line_once() -> Iterator[None]:
    """Inside, a line that has been announced is not announced again: many warm starts are alike."""
    token = _said.set(set()) if _said.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _said.reset(token)


def hush() -> None:
    """Announce nothing from now on in this process, whose parent does."""
    _hushed.set(True)


@contextmanager
def plain_lines() -> Iterator[None]:
    """Inside, steps are shown where there is no terminal too, in a line every half minute."""
    token = _plain_lines.set(True)
    try:
        yield
    finally:
        _plain_lines.reset(token)


class Pulse:
    """Says how far something is, at most once in half a minute.

    Args:
        say: where a line goes.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.rest()

    def rest(self) -> None:
        """Something else has just been said: count from now."""
        self._since = time.monotonic()

    def beat(self, line: Callable[[], str]) -> None:
        """Say a line if it is time."""
        if time.monotonic() - self._since >= LINE_SECONDS:
            self._say(line())
            self.rest()


class StepProgress:
    """Counts optimizer steps, and shows them on a terminal.

    Args:
        total: steps expected.
        shown: whether to show the bar; None: if stderr is a terminal, and plain lines elsewhere if
            they are turned on.
    """

    def __init__(self, total: int, shown: bool | None = None) -> None:
        self.done = 0
        self._drawn_at = 0.0
        self._total, self._what = total, "warm start"
        self._bar: Progress | None = None
        self._pulse: Pulse | None = None
        if sys.stderr.isatty() if shown is None else shown:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
                console=Console(stderr=True, force_terminal=shown),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=total)
        elif shown is None and _plain_lines.get():
            self._pulse = Pulse(say_on_stderr)

    def __enter__(self) -> StepProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            self._bar.stop()

    def describe(self, text: str) -> None:
        """Show what is running."""
        self._what = text
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=self.done)

    def tick(self) -> None:
        """Count one step."""
        self.done += 1
        if self._bar is not None and time.monotonic() - self._drawn_at > REDRAW_SECONDS:
            self._drawn_at = time.monotonic()
            self._bar.update(self._task, completed=self.done)
        elif self._pulse is not None:
            self._pulse.beat(
                lambda: f"  warm start, {self._what}: {self.done:,} of {self._total:,} steps"
            )
