"""Which column of a table is the label, and its classes."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipt_cords.base.listing import listed
from lipt_cords.data.tables.values import Texts, is_number

logger = logging.getLogger(__name__)

USUAL = ("label", "target", "class", "y")
"""Columns that are the label where none is named, in any case."""
FEW = 20
"""So many different numbers are classes, however few rows each has."""
NOTHING = "in CSV, NA, null and None count as nothing"
"""What counts as no label."""
ROWS_OF_A_CLASS = 5
"""More different numbers than FEW are classes if each has so many rows, on average."""


_WHOLE = re.compile(r"\s*[+-]?\d+\s*")


def label_name(path: Path, names: Sequence[str], given: str | None) -> str:
    """The name of the label's column.

    Args:
        path: the file.
        names: of all columns.
        given: what the user named, or None.

    Raises:
        ValueError: no such column, or none or several of the usual names.
    """
    if given is not None and given in names:
        return given
    remedy = "name it by dataset.label (--set dataset.label=NAME)"
    if all(map(is_number, names)):
        raise ValueError(
            f"the heading of {path} holds numbers alone ({listed(names)}): add a line with the "
            "names of the columns"
        )
    shown = f"the columns are {listed(names, 30)}"
    if given is not None:
        alike = [name for name in names if name.lower() == given.strip().lower()]
        hint = f"; did you mean {alike[0]!r}?" if alike else ""
        raise ValueError(f"{path} has no column {given!r} to be the label: {shown}{hint}")
    found = [name for name in names if name.lower() in USUAL]
    if len(found) == 1:
        return found[0]
    which = f"{' and '.join(found)} may all be it" if found else f"none is {', '.join(USUAL)}"
    values = ". If these are values, add a heading" if any(map(is_number, names)) else ""
    raise ValueError(f"which column of {path} is the label? {which}: {remedy}; {shown}{values}")


def classes_of(path: Path, name: str, column: Texts) -> tuple[Tensor, tuple[str, ...]]:
    """Labels from 0 on, -1 where one is missing, and what the classes are called.

    Numbers are sorted by value, so that 10 follows 2; 1 and 1.0 are one class, and so are texts
    that differ in spaces at their ends. Those that differ in case are two, with a warning.

    Args:
        path: the file.
        name: of the column.
        column: its values as they are written.

    Raises:
        ValueError: fewer than two classes, numbers that are quantities, or a text of its own in
            nearly every row.
    """
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.texts))
    pairs = zip(column.texts, counts, strict=True)
    used = [text for text, count in pairs if count and text.strip()]
    rows = int(counts.sum())
    numbers = all(map(is_number, used))
    called = {text: _as_number(text) if numbers else text.strip() for text in used}
    classes = sorted(set(called.values()), key=_value if numbers else None)
    if len(classes) < 2:
        held = f"one class, {classes[0]}" if classes else "no value"
        if missing := len(column.codes) - rows:
            held += f", and {missing:,} rows without one ({NOTHING})"
        raise ValueError(
            f"the label {name!r} of {path} has {held}: expected at least two classes; name "
            "another column by dataset.label"
        )
    fractions = numbers and any("." in one or "e" in one.lower() for one in classes)
    many = len(classes) > FEW and (fractions or rows < ROWS_OF_A_CLASS * len(classes))
    if many and numbers:
        raise ValueError(
            f"the label {name!r} of {path} has {len(classes):,} different numbers in {rows:,} rows "
            f"({listed(classes, 3)}), so it is a quantity: only classes can be learned. Make "
            "classes of it, such as low, middle and high, or name another column by dataset.label"
        )
    if not numbers and len(classes) > max(FEW, rows / 2):
        raise ValueError(
            f"the label {name!r} of {path} has {len(classes):,} different texts in {rows:,} rows: "
            "expected classes that occur again; name another column by dataset.label"
        )
    alike: dict[str, list[str]] = {}
    for one in classes:
        alike.setdefault(one.casefold(), []).append(repr(one))
    if twice := [" and ".join(some) for some in alike.values() if len(some) > 1]:
        logger.warning(
            "the label %r of %s has classes that differ in case alone, %s: write them alike if "
            "they are one", name, path, listed(twice),
        )  # fmt: skip
    place = {one: index for index, one in enumerate(classes)}
    lookup = torch.tensor([place[called[text]] if text in called else -1 for text in column.texts])
    labels = torch.cat([lookup, torch.tensor([-1])])[torch.from_numpy(column.codes).long()]
    return labels, tuple(classes)


def _value(number: str) -> tuple[float, str]:
    """To sort by; large whole numbers may be equal as floats."""
    return float(number), number


def _as_number(text: str) -> str:
    """One spelling of a number: ``007`` and ``7.0`` are ``7``.

    >>> _as_number("007"), _as_number("7.0"), _as_number("0.50"), _as_number("9007199254740993")
    ('7', '7', '0.5', '9007199254740993')
    """
    if _WHOLE.fullmatch(text):
        return str(int(text))
    value = float(text)
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
