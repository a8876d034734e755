"""Errors that name what was expected, what was received, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def unknown_name(kind: str, received: object, valid: Iterable[str]) -> ValueError:
    """Build the error for an unknown name.

    Args:
        kind: of the named thing, such as ``"selector"``.
        received: what the user gave.
        valid: the names that would have worked.

    Returns:
        The error, to be raised by the caller. It names the nearest valid name, if one is near.

    >>> unknown_name("soup", "gredy", ["uniform", "greedy"])
    ValueError("unknown soup 'gredy': expected one of 'greedy', 'uniform'. Did you mean 'greedy'?")
    """
    names = sorted(valid)
    message = f"unknown {kind} {received!r}: expected one of {', '.join(map(repr, names))}."
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(received).lower(), list(lowered), n=1)
    if near:
        message += f" Did you mean {lowered[near[0]]!r}?"
    return ValueError(message)


def missing_extra(package: str, extra: str, purpose: str) -> ImportError:
    """Build the error for an optional dependency that is not installed.

    >>> missing_extra("matplotlib", "report", "to draw plots")
    ImportError("matplotlib is needed to draw plots: pip install 'lipt-cords[report]'")
    """
    return ImportError(f"{package} is needed {purpose}: pip install 'lipt-cords[{extra}]'")


def already_made(
    path: Path, *, resume: str = "--resume", directory: str = "--output"
) -> ValueError:
    """The error for a directory with an earlier run, over which a new one would write.

    Args:
        path: the file that says so.
        resume: how the earlier run is continued.
        directory: what names the directory.
    """
    return ValueError(
        f"{path} holds results already: resume ({resume}) to continue with them, or choose another "
        f"{directory}"
    )
