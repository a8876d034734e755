"""Files that are complete or absent: written to a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


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
    """Write a complete file or none: a temporary file beside it is renamed to ``path``."""
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(payload)
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        if error.errno is None:  # an error with its own message
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # full disks name none
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


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
