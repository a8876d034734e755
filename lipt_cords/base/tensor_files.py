"""Tensors on disk: complete or absent, and with a checksum, as all files of this package."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lipt_cords.base.files import read_whole, write_atomic
from lipt_cords.base.seal import (
    BLANK,
    KEY,
    REMEDY,
    check_seal,
    comment,
    seal_in_place,
    sealed,
)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    """Write named tensors as safetensors, atomically, with string metadata and a checksum."""
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return write_atomic(path, sealed(save(owned, metadata={**metadata, KEY: BLANK})))


def load_tensors(path: str | Path, *, remedy: str = REMEDY) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file onto the CPU.

    A file without checksum, as others write them, is read as it is.

    Args:
        path: the file.
        remedy: what to do about a damaged one.

    Raises:
        ValueError: the file is missing, truncated, changed or of another format; it is named.
    """
    path = Path(path)
    data = read_whole(path)
    check_seal(data, path, remedy)
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): it may be truncated; {remedy}"
        ) from error
    return tensors


def save_plain(path: str | Path, payload: Any) -> Path:
    """Write tensors and plain values as torch does, atomically, with a checksum.

    ``torch.load`` reads the file, as any other; the checksum is the comment of its archive.
    """
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    end = comment()
    buffer.seek(-2, io.SEEK_END)  # the length of the comment, which ends the archive
    buffer.write(len(end).to_bytes(2, "little") + end)
    with buffer.getbuffer() as data:  # no copy of it: states may be large
        seal_in_place(data)
        return write_atomic(path, data)


def load_plain(path: Path, *, what: str, expected: str, remedy: str) -> tuple[Any, bool]:
    """Read a file of torch onto the CPU, only tensors and plain values; nothing is executed.

    Args:
        path: the file.
        what: its name in the error if it cannot be read.
        expected: the kind of file that was expected.
        remedy: what to do about a damaged one.

    Returns:
        The contents, and whether a checksum says that they are as they were written.

    Raises:
        ValueError: the file is missing, truncated, changed, or holds objects; it is named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {what}: {error.strerror}") from error
    has_seal = check_seal(data, path, remedy)
    try:
        payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive or pickle may raise anything
        raise ValueError(
            f"{path} is not {expected} ({type(error).__name__}), it may be truncated, or hold "
            f"objects: {remedy}"
        ) from error
    return payload, has_seal
