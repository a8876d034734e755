"""Ctrl-C and SIGTERM: what is half-written is removed, and what is kept is said."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar

import typer

from lipt_cords.base.files import read_json
from lipt_cords.cli.support import say_error
from lipt_cords.experiments.report.results import RESULTS
from lipt_cords.training.subset import CHECKPOINT
from lipt_cords.warmstart.ranks.sigterm import Interrupted
from lipt_cords.warmstart.resume.folder import SUBFOLDER
from lipt_cords.warmstart.resume.work_dir import START

P = ParamSpec("P")
R = TypeVar("R")
CTRL_C, STOPPED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes, as shells count."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything ends as after Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM unwinds as Ctrl-C does, once; a second one ends the process at once.

    Ranks of ``torchrun`` are left as they are: they may wait for each other where nothing unwinds.
    """
    if "WORLD_SIZE" in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def interruptible(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command that is interrupted end in one line, which says what its ``output`` holds.

    The exit code is 130 after Ctrl-C and 143 after SIGTERM.
    """
    parameters = inspect.signature(command)

    @functools.wraps(command)
    def ending(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with terminable():
                return command(*args, **kwargs)
        except (KeyboardInterrupt, Interrupted) as stopped:
            bound = parameters.bind(*args, **kwargs)
            bound.apply_defaults()
            writes = "output" in bound.arguments
            kept = f"; {kept_in(bound.arguments['output'])}" if writes else ""
            say_error(f"interrupted{kept}")
            code = STOPPED if isinstance(stopped, Terminated | Interrupted) else CTRL_C
            raise typer.Exit(code) from stopped

    return ending


def kept_in(output: Path | None) -> str:
    """What a later command can continue from, in words.

    Args:
        output: directory of the command that was interrupted, or None.
    """
    if output is None:
        return "nothing is kept: give --output to be able to resume"
    if (output / CHECKPOINT).is_file():
        return f"the last checkpoint is kept in {output}: add --resume to continue"
    of_warm_start = output / SUBFOLDER
    for what, files in (
        ("finished workers are", ("round_*/worker_*.json", "round_*/merge.json")),
        ("the common start is", (f"{START}.json",)),
    ):
        if any(next(of_warm_start.glob(pattern), None) for pattern in files):
            return f"{what} kept in {output}: the same command continues"
    if (output / RESULTS).is_file():
        try:
            runs = read_json(output / RESULTS).get("runs")
        except ValueError:
            runs = None
        if isinstance(runs, list):
            return f"{len(runs)} finished runs are kept in {output}: add --resume to continue"
    return f"nothing new is kept in {output}"
