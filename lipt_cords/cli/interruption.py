"""Ctrl-C and SIGTERM: what is half-written is removed, and what is kept is said."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar

import typer

from lipt_cords.base.files import read_json
from lipt_cords.cli.lines import say_error
from lipt_cords.cli.support import program

P = ParamSpec("P")
R = TypeVar("R")
CTRL_C, STOPPED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes, as shells count."""
GOES_ON = {
    "train": "--resume", "compare": "--resume", "warmstart": "", "select": None, "demo": None,
}  # fmt: skip
"""Commands that write, and the option with which each goes on; None for those that begin again."""


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
    """Make a command that is interrupted end in one line: what its ``output`` holds, and what to
    type to go on.

    The exit code is 130 after Ctrl-C and 143 after SIGTERM.
    """
    parameters = inspect.signature(command)

    @functools.wraps(command)
    def ending(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            from lipt_cords.warmstart.progress import plain_lines

            with terminable(), plain_lines():
                return command(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit) as stopped:
            by_signal = isinstance(stopped, Terminated | SystemExit)
            if isinstance(stopped, SystemExit) and stopped.code != STOPPED:
                raise  # not that of a warm start which SIGTERM stopped
            bound = parameters.bind(*args, **kwargs)
            bound.apply_defaults()
            kept = ""
            if "torch" not in sys.modules:  # it was being imported
                kept = ": nothing had begun"
            elif command.__name__ in GOES_ON:
                kept = f"; {kept_in(bound.arguments['output'], GOES_ON[command.__name__])}"
            say_error(f"interrupted{kept}")
            raise typer.Exit(STOPPED if by_signal else CTRL_C) from stopped

    return ending


def kept_in(output: Path | None, option: str | None) -> str:
    """What a later command can continue from, and the command, in words.

    Args:
        output: directory of the command that was interrupted, or None.
        option: with which the command continues; empty where it needs none, None where it cannot.
    """
    from lipt_cords.experiments.report.results import RESULTS
    from lipt_cords.training.subset import CHECKPOINT
    from lipt_cords.warmstart.resume.folder import SUBFOLDER
    from lipt_cords.warmstart.resume.work_dir import START

    if option is None:
        return "nothing is kept: the same command begins again"
    if output is None:
        return "nothing is kept: give --output to be able to go on"
    go_on = f"go on with: {_with(option)}"
    if (output / CHECKPOINT).is_file():
        return f"the last checkpoint is kept in {output}; {go_on}"
    of_warm_start = output / SUBFOLDER
    for what, files in (
        ("finished workers are", ("round_*/worker_*.json", "round_*/merge.json")),
        ("the common start is", (f"{START}.json",)),
    ):
        if any(next(of_warm_start.glob(pattern), None) for pattern in files):
            return f"{what} kept in {output}; {go_on}"
    if (output / RESULTS).is_file():
        try:
            runs = read_json(output / RESULTS).get("runs")
        except ValueError:
            runs = None
        if isinstance(runs, list) and runs:
            finished = "1 finished run is" if len(runs) == 1 else f"{len(runs)} finished runs are"
            return f"{finished} kept in {output}; {go_on}"
    return f"nothing new is kept in {output}: the same command begins again"


def _with(option: str) -> str:
    """This command line with an option, if it is not there yet."""
    words = shlex.join([*program(), *sys.argv[1:]])
    return words if not option or option in sys.argv else f"{words} {option}"
