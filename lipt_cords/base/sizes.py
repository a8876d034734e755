"""Sizes of memory, and shares: parse and format."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from numbers import Real
from typing import Any

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
         "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip


def parse_bytes(value: object, name: str = "memory_budget") -> int:
    """Bytes from a number or a string such as ``2GiB`` or ``500 MB``.

    Raises:
        ValueError: anything else, or a size that is not positive.

    >>> parse_bytes("1.5 GiB"), parse_bytes(2048)
    (1610612736, 2048)
    """
    message = f"expected bytes as a number, or a size such as '2GiB' or '500MB', received {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{name}: {message}")
    if isinstance(value, int) and abs(value) > 2**62:  # larger than any memory
        raise ValueError(f"{name}: {message}")
    text = isinstance(value, str)
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\s*", value)
        if found is None or found[2].lower() not in UNITS:
            raise ValueError(f"{name}: {message}")
        value = float(found[1]) * UNITS[found[2].lower()]
    if not math.isfinite(value) or value < 1 or (not text and value != int(value)):
        raise ValueError(f"{name}: {message}")
    return int(value)


def parse_share(value: Any) -> float:
    """A share from a number, or a text such as ``0.05`` or ``5%``.

    Raises:
        ValueError: anything else, or a number that is not above 0 and at most 1.

    >>> parse_share("5%"), parse_share(0.05)
    (0.05, 0.05)
    """
    share = math.nan
    if isinstance(value, str):
        found = re.fullmatch(r"([^%]+)(%?)\s*", value)
        with suppress(ValueError):
            share = float(found[1]) / (100 if found[2] else 1) if found else share
    elif isinstance(value, Real) and value is not True:
        share = float(value)
    if not 0 < share <= 1:
        raise ValueError(
            f"expected a share such as 0.05 or 5%, above 0 and at most 1, received {value!r} "
            "(150 of 3,000 samples are 0.05)"
        )
    return share


def show_bytes(size: float) -> str:
    """A size as text, rounded up so that it can be used as a budget.

    >>> show_bytes(1610612736), show_bytes(1000), show_bytes(12_345_678)
    ('1.50 GiB', '1000 B', '11.78 MiB')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{math.ceil(size / scale * 100) / 100:.2f} {unit}"
    return f"{math.ceil(size)} B"


def check_bandwidth(bandwidth: object) -> None:
    """Check the bandwidth of a link.

    Raises:
        ValueError: not None, and not a positive, finite number of bytes a second.
    """
    if bandwidth is None:
        return
    number = isinstance(bandwidth, int | float) and not isinstance(bandwidth, bool)
    if not number or not math.isfinite(bandwidth) or bandwidth <= 0:  # type: ignore[operator, arg-type]
        raise ValueError(
            "bandwidth must be positive, a finite number of bytes a second such as 12e9, received "
            f"{bandwidth!r}"
        )


def parse_memory(budget: object, bandwidth: float | None) -> tuple[int, float | None] | None:
    """A memory budget and its bandwidth; None without a budget.

    Args:
        budget: bytes or a size, or None.
        bandwidth: bytes a second, or None.

    Raises:
        ValueError: a wrong budget, or a bandwidth without a budget.

    >>> parse_memory("1KiB", None), parse_memory(None, None)
    ((1024, None), None)
    """
    check_bandwidth(bandwidth)
    if budget is not None:
        return parse_bytes(budget), bandwidth
    if bandwidth is not None:
        raise ValueError(
            f"memory_bandwidth ({bandwidth:g}) does nothing without memory_budget: set that too, "
            "or leave it out"
        )
    return None
