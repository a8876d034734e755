"""Temporary directories: of those that killed processes left, the next one removes all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lipt_cords.base.locks import SHARES, try_lock


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """A temporary directory, removed at the end.

    It is locked while it is used. Others of the same prefix without a lock were left by processes
    that were killed, and are removed first.

    Args:
        prefix: of its name, which no one else uses.
    """
    for other in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_if_left(other)
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix))
        descriptor = _lock(made)
        if made.exists():  # not taken for one that was left, before it was locked
            break
        _close(descriptor)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        _close(descriptor)


def _remove_if_left(directory: Path) -> None:
    with suppress(OSError):  # it is another user's, or has just been removed
        descriptor = _lock(directory)
        if descriptor is not None:
            shutil.rmtree(directory, ignore_errors=True)
            _close(descriptor)


def _lock(directory: Path) -> int | None:
    """A descriptor that holds the directory; None where another one does, or none can."""
    if not SHARES:  # Windows opens no directories
        return None
    descriptor: int | None = None
    # Network file systems lock no directory, or none that is open for reading alone.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        if try_lock(descriptor):
            return descriptor
    _close(descriptor)
    return None


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
