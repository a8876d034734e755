"""Ctrl-C before a command has begun, while its modules are imported."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

NAME, MODULE = "lipt-cords", "lipt_cords"


def end_in_one_line() -> None:
    """If this process is the command, a Ctrl-C that nothing handles ends in one line."""
    if not _is_command():
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write(f"{NAME}: interrupted\n")
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def _is_command() -> bool:
    """Whether the program is ``lipt-cords`` or ``python -m lipt_cords``."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # while the module is looked for
        place = sys.orig_argv.index("-m") + 1 if "-m" in sys.orig_argv else 0
        return sys.orig_argv[place : place + 1] == [MODULE]
    return Path(program).stem == NAME
