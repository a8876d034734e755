"""A cheap progress bar over steps, shown only on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REDRAW_SECONDS = 0.1
logger = logging.getLogger(__name__)


def announce(line: str, shown: bool | None) -> None:
    """Say in one line what begins, on stderr, unless progress is turned off; and in the log."""
    logger.info("%s", line)
    if shown is not False:
        Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


class StepProgress:
    """Counts optimizer steps, and shows them on a terminal.

    Args:
        total: steps expected.
        shown: whether to show the bar; None: if stderr is a terminal.
    """

    def __init__(self, total: int, shown: bool | None = None) -> None:
        self.done = 0
        self._drawn_at = 0.0
        self._bar: Progress | None = None
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
            self._task = self._bar.add_task("warm start", total=total)

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
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=self.done)

    def tick(self) -> None:
        """Count one step."""
        self.done += 1
        if self._bar is not None and time.monotonic() - self._drawn_at > REDRAW_SECONDS:
            self._drawn_at = time.monotonic()
            self._bar.update(self._task, completed=self.done)
