"""Files that are complete or absent: written to a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipt_cords.base.locks import NoLocks, try_lock
from lipt_cords.base.seal import (
    BLANK,
    KEY,
    REMEDY,
    check_seal,
    looks_damaged,
    sealed,
)

logger = logging.getLogger(__name__)

LONGEST_NUMBER = 40
"""Digits of an integer in JSON: results have none that are longer, and floats hold no more."""
PREFIX, SUFFIX = ".lipt-cords.", ".tmp"
"""Of the names of temporary files."""
FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
_CLOSES_FIRST = sys.platform == "win32"  # where an open file cannot be renamed


def output_directory(path: str | Path) -> Path:
    """Create a directory and check that it can be written.

    Raises:
        ValueError: a file has this name, or the directory cannot be created or written.
    """
    directory = Path(path).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except FileExistsError as error:
        raise ValueError(
            f"expected a directory at {directory}, found a file: choose another directory"
        ) from error
    except OSError as error:
        raise ValueError(
            f"cannot write to {directory} ({error.strerror}): choose a directory that you may write"
        ) from error
    return directory


def write_atomic(path: str | Path, data: bytes | memoryview | str) -> Path:
    """Write a complete file or none: a temporary file beside it is renamed to ``path``.

    The file gets the permissions that the umask leaves. When this returns it is on disk, with its
    name.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    descriptor, temporary = _temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(payload)
            handle.flush()
            os.fsync(handle.fileno())
            if not _CLOSES_FIRST:  # its lock says that it is being written
                temporary.replace(path)
        if _CLOSES_FIRST:
            temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None:  # an error with its own message
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # full disks name none
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def remove_left_over(directory: Path, *below: str) -> list[Path]:
    """Remove the temporary files that killed writes left in a directory.

    A file that another process is writing now is locked, and stays.

    Args:
        directory: where to look.
        *below: its subfolders in which to look too, with all below them.

    Returns:
        The files that were removed.
    """
    pattern = f"{PREFIX}*{SUFFIX}"
    found = [*directory.glob(pattern)]
    for name in below:
        found += (directory / name).rglob(pattern)
    return [path for path in found if _removed(path)]


def _removed(path: Path) -> bool:
    """Remove a temporary file unless a process is writing it."""
    try:
        descriptor = os.open(path, os.O_RDWR | FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except OSError:  # of another user, or gone already
        return False
    try:
        if not try_lock(descriptor):
            return False
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.debug("cannot remove %s: %s", path, error)
        return False
    finally:
        os.close(descriptor)
    return True


def _temporary(path: Path) -> tuple[int, Path]:
    """A new temporary file for a path, locked while it is open."""
    while True:
        name = f"{PREFIX}{path.name[:100]}.{secrets.token_hex(4)}{SUFFIX}"
        temporary = path.parent / name
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, 0o666)
        except FileExistsError:
            continue
        try:
            mine = try_lock(descriptor)
        except NoLocks:
            mine = True
        if mine and temporary.exists():
            return descriptor, temporary
        os.close(descriptor)  # it was taken for one that was left, before it was locked


def _sync(directory: Path) -> None:
    """Write a directory's names to disk, where directories can be opened and synced."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | FLAGS)
    except PermissionError:  # it may be written and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)


def write_json(path: str | Path, payload: Mapping[str, Any], *, seal: bool = False) -> Path:
    """Write readable JSON atomically. NaN and infinity are refused: JSON has no such numbers.

    Args:
        path: the file.
        payload: the object.
        seal: end it with its checksum, which :func:`read_json` compares.
    """
    entries = {**payload, KEY: BLANK} if seal else payload
    data = (json.dumps(entries, indent=2, allow_nan=False) + "\n").encode()
    return write_atomic(path, sealed(data) if seal else data)


def read_json(
    path: str | Path, *, must_be_sealed: bool = False, remedy: str = REMEDY
) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        must_be_sealed: refuse a file without checksum.
        remedy: what to do about a damaged one.

    Raises:
        ValueError: the file is missing, truncated, changed after it was written, or holds something
            other than an object, a number that JSON does not have or that is longer than 40 digits,
            or a key twice.
    """
    path = Path(path)
    data = read_whole(path)
    has_seal = check_seal(data, path, remedy)
    try:
        payload = json.loads(
            data.decode(),
            parse_int=_short_integer,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_different_keys,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): it may be truncated; {remedy}"
        ) from error
    if not isinstance(payload, dict):
        raise ValueError(f"expected a JSON object in {path}, found {type(payload).__name__}")
    if not has_seal and (must_be_sealed or looks_damaged(payload)):
        raise ValueError(
            f"{path} has no whole checksum: it is damaged, or an earlier version wrote it; {remedy}"
        )
    payload.pop(KEY, None)
    return payload


def _short_integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:LONGEST_NUMBER]} is not finite")
    return value


def _different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def read_whole(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def checksum(path: str | Path) -> str:
    """SHA-256 of a file.

    Raises:
        ValueError: it cannot be read.
    """
    return hashlib.sha256(read_whole(Path(path))).hexdigest()
