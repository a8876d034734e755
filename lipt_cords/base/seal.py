"""The checksum of a file, inside of it: one format for JSON, safetensors and files of torch.

A file holds ``"lipt_cords_sha256": "<64 digits>"``: JSON as its last entry, safetensors in its
metadata, a file of torch as the comment of its zip archive. The digits are the SHA-256 of the whole
file with zeros in their place, so a change of any bit is noticed before anything is read.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

KEY = "lipt_cords_sha256"
BLANK = "0" * 64
REMEDY = "delete it and run again, or take a copy"
"""What helps where nothing else is said."""
_MARK = re.compile(rb'"lipt_cords_sha256": ?"([0-9a-f]{64})"')
_TAIL = 2 * len(KEY) + 64
"""Bytes at the end of JSON and of archives in which it stands."""


def comment() -> bytes:
    """The entry alone, not yet filled in."""
    return f'"{KEY}": "{BLANK}"'.encode()


def sealed(data: bytes) -> bytes:
    """A file's bytes with the checksum in its place, which :data:`BLANK` holds."""
    whole = bytearray(data)
    seal_in_place(memoryview(whole))
    return bytes(whole)


def seal_in_place(data: memoryview) -> None:
    """Write the checksum of a file's bytes into its place, which :data:`BLANK` holds."""
    place = _place(data)
    if place is None:
        raise TypeError("these bytes have no place for a checksum")
    data[place : place + len(BLANK)] = _digest(data, place)


def check_seal(data: bytes, path: Path, remedy: str = REMEDY) -> bool:
    """Compare a file's bytes with the checksum in it.

    Args:
        data: all of the file.
        path: of the file, for the error.
        remedy: what to do about a damaged one.

    Returns:
        Whether there is one: files of others and of earlier versions have none.

    Raises:
        ValueError: it is not that of these bytes; the file is named.
    """
    place = _place(data)
    if place is None:
        return False
    if data[place : place + len(BLANK)] != _digest(data, place):
        raise ValueError(
            f"{path} is truncated, damaged or changed since it was written (its checksum differs): "
            f"{remedy}"
        )
    return True


def looks_damaged(names: object) -> bool:
    """Whether one of some names was the checksum's, up to a flipped bit or two."""
    return isinstance(names, dict) and any(
        len(name) == len(KEY) and sum(map(str.__ne__, name, KEY)) <= 2 for name in names
    )


def _place(data: bytes | memoryview) -> int | None:
    """Where the digits begin."""
    begin = max(0, len(data) - _TAIL)
    found = _MARK.search(data, begin)
    if found is None:  # in the header of safetensors, which tells its length
        found = _MARK.search(data, 8, 8 + int.from_bytes(data[:8], "little") % 2**40)
    return None if found is None else found.start(1)


def _digest(data: bytes | memoryview, place: int) -> bytes:
    view, total = memoryview(data), hashlib.sha256()
    for part in (view[:place], BLANK.encode(), view[place + len(BLANK) :]):
        total.update(part)
    return total.hexdigest().encode()
