"""Files that are complete or absent: written to a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lipt_cords.base.locks import NoLocks, try_lock

logger = logging.getLogger(__name__)

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


def write_atomic(path: str | Path, data: bytes | str) -> Path:
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
    """Remove a temporary file unless somebody writes it."""
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


def write_json(path: str | Path, payload: Mapping[str, Any]) -> Path:
    """Write readable JSON atomically. NaN and infinity are refused: JSON has no such numbers."""
    return write_atomic(path, json.dumps(payload, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is missing, truncated, or holds something other than an object.
    """
    path = Path(path)
    try:
        payload = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): it may be truncated") from error
    if not isinstance(payload, dict):
        raise ValueError(f"expected a JSON object in {path}, found {type(payload).__name__}")
    return payload


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    """Write named tensors as safetensors, atomically, with string metadata."""
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return write_atomic(path, save(owned, metadata=metadata or None))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file onto the CPU.

    Raises:
        ValueError: the file is missing, truncated or of another format; it is named.
    """
    path = Path(path)
    try:
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): "
            "it may be truncated; delete it and run again"
        ) from error
    return tensors


def load_plain(path: Path, *, what: str, expected: str, remedy: str) -> Any:
    """Read a file of torch onto the CPU, only tensors and plain values; nothing is executed.

    Args:
        path: the file.
        what: its name in the error if it cannot be read.
        expected: the kind of file that was expected.
        remedy: a likely cause, and what to do.

    Raises:
        ValueError: the file is missing, truncated, or holds objects; it is named.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read {what}: {error.strerror}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not {expected} ({type(error).__name__}): {remedy}") from error
