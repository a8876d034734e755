"""What each column of a table is good for: a number, a category, or nothing, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.listing import listed
from lipt_cords.data.tables.values import (
    Columns,
    Numbers,
    Texts,
    Unusable,
    Values,
    as_texts,
    is_number,
)

NUMBER, CATEGORY, LEAVE_OUT = USES = ("number", "category", "leave-out")
FEW_TEXTS = 20
"""So many different texts are categories, however few rows each has."""
WORDS = 3
"""Texts of more words, on average, are free text."""
_ID = re.compile(r"(?i:(.*[ _.-])?(id|idx|index|uuid|guid|key|rowid|row|nr|no))|.*[a-z]I[dD]")
"""Names of columns that only tell rows apart."""
_INDEX = re.compile(r"__index_level_\d+__")
"""How pandas calls the index of its rows in Parquet."""
_UNNAMED = re.compile(r"column \d+|Unnamed: \d+")
"""Columns without a name, as this package and pandas call them: such an index in CSV."""
_EXACT, _INTEGERS = 2.0**53, 2.0**64
"""Whole numbers between them are not all told apart; larger ones are quantities such as 6e23."""
_COMMAS = re.compile(r"\s*[+-]?\d+([.,' ]\d+)*\s*")
_DATE = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b.*", re.DOTALL)
_MEASURE = re.compile(
    r"\s*([^\w\s.,+-]?)\s*[+\u2212-]?\s*\d[\d.,'\u2019\s]*([^\W\d_]{1,3}|[^\w\s])?\s*"
)
"""A number with what stands before and after it, such as ``$5``, ``1 200`` and ``5 kg``."""
_LARGEST = 1e307
"""Beyond it differences of numbers may be infinite."""
MOSTLY = 0.9
"""So many of the different texts are numbers where the others are taken for mistakes."""


@dataclass(frozen=True)
class Uses:
    """The columns of a table by use, in their order."""

    numbers: dict[str, Numbers]
    categories: dict[str, Texts]
    left_out: dict[str, str]
    """Why, by name."""


def uses_of(path: Path, columns: Columns, wanted: Mapping[str, str]) -> Uses:
    """What becomes of each column but the label.

    Left out are columns with one value, with a text of its own in more than half of the rows (ids,
    free text), and whole numbers that are all different and count the rows or are called an id.

    Args:
        path: the file.
        columns: without the label.
        wanted: a use by name, which is kept to.

    Raises:
        ValueError: an unknown column or use, numbers wanted of texts, a number that is infinite or
            beyond 1e307, numbers with commas, or no column that can be used.
    """
    for name, asked in wanted.items():
        if name not in columns:
            raise ValueError(
                f"dataset.columns names {name!r}, which is no column of {path} besides the label: "
                f"they are {listed(list(columns), 30)}"
            )
        if asked not in USES:
            raise unknown_name(f"use of column {name!r} in dataset.columns", asked, USES)
    made = Uses({}, {}, {})
    for name, values in columns.items():
        use = wanted.get(name)
        if use is None and isinstance(values, Texts):
            _refuse_commas(path, name, values)
        why = "as asked" if use == LEAVE_OUT else _useless(name, values, forced=use is not None)
        if why is not None:
            made.left_out[name] = why
        elif isinstance(values, Numbers) and use != CATEGORY:
            _refuse_too_large(path, name, values)
            made.numbers[name] = values
        elif isinstance(values, Numbers):
            made.categories[name] = as_texts(values)
        elif isinstance(values, Texts):
            if use == NUMBER:
                raise ValueError(
                    f"column {name!r} of {path} holds texts such as "
                    f"{listed([repr(text) for text in values.texts], 3)}: write numbers (with a "
                    "point, as in 1.5), or leave it out of dataset.columns"
                )
            made.categories[name] = values
    if not columns:
        raise ValueError(f"{path} has no column beside the label: add some to learn from")
    if not made.numbers and not made.categories:
        said = "; ".join(f"{name}: {why}" for name, why in made.left_out.items())
        raise ValueError(
            f"no column of {path} is left beside the label ({said}): add some, or say by "
            "dataset.columns which to use, such as {NAME: category}"
        )
    return made


def _useless(name: str, values: Values, *, forced: bool) -> str | None:
    """Why a column is left out, or None."""
    if isinstance(values, Unusable):
        return values.reason
    there = values.codes >= 0 if isinstance(values, Texts) else ~np.isnan(values.values)
    count = int(there.sum())
    if not count:
        return "empty"
    given = values.codes[there] if isinstance(values, Texts) else values.values[there]
    different = len(np.unique(given))
    large = isinstance(values, Numbers) and values.whole and not values.dates
    large = large and _EXACT <= float(np.abs(given).max()) <= _INTEGERS
    if not large and different == 1 and count == len(there):
        return "one value"
    if forced:
        return None
    if isinstance(values, Texts):
        if different <= max(FEW_TEXTS, count / 2):
            return None
        return f"{_kind(values.texts)}: {different:,} different in {count:,} rows"
    if large:
        return "an id: whole numbers of more than 15 digits"
    if values.whole and _INDEX.fullmatch(name):
        return "the index of pandas"
    if values.whole and not values.dates and different == len(there):
        names_rows = _ID.fullmatch(name) or _UNNAMED.fullmatch(name)
        with np.errstate(over="ignore", invalid="ignore"):
            counts = given.max() - given.min() == different - 1
        if (different > FEW_TEXTS and counts) or names_rows:
            return "an id: different in every row"
    return None


def _kind(texts: Sequence[str]) -> str:
    """What texts are of which nearly every row has another.

    >>> _kind(["1.5", "2"] * 9 + ["unknown"]), _kind(["5 kg", "7 kg"]), _kind(["c1", "c2"])
    ("numbers, but also 'unknown'", "numbers written as '5 kg'", 'an id')
    """
    for kind, fits in (("numbers", is_number), ("dates", _DATE.fullmatch)):
        if others := _others(texts, fits):
            return f"{kind}, but also {listed(list(map(repr, others)), 3)}"
    if all(map(_DATE.fullmatch, texts)):
        return "dates that are not written as 2024-05-31"
    around = None if all(map(is_number, texts)) else _around(texts[0])
    if around is not None and all(_around(text) == around for text in texts):
        return f"numbers written as {texts[0]!r}"
    spaces = sum(text.count(" ") for text in texts) / len(texts)
    return "free text" if spaces >= WORDS else "an id"


def _others(texts: Sequence[str], fits: Callable[[str], object]) -> list[str]:
    """The texts that do not fit, where nearly all do."""
    others = []
    for text in texts:
        if not fits(text):
            others.append(text)
            if len(others) > (1 - MOSTLY) * len(texts):
                return []
    return others


def _around(text: str) -> tuple[str, ...] | None:
    """What stands before and after a number; None: it is none."""
    found = _MEASURE.fullmatch(text)
    return None if found is None else found.groups("")


def _refuse_commas(path: Path, name: str, column: Texts) -> None:
    """Refuse texts that are numbers, which would be lost as such."""
    commas = any("," in text for text in column.texts)
    if commas and all(map(_COMMAS.fullmatch, column.texts)):
        raise ValueError(
            f"column {name!r} of {path} holds numbers with commas such as "
            f"{listed([repr(text) for text in column.texts], 3)}: write them as 1234.5, or say by "
            "dataset.columns that it is a category or left out"
        )


def _refuse_too_large(path: Path, name: str, column: Numbers) -> None:
    for rows, what, remedy in (
        (np.flatnonzero(np.isinf(column.values)), "infinite", "a number"),
        (np.flatnonzero(np.abs(column.values) > _LARGEST), f"beyond {_LARGEST:g}", "smaller ones"),
    ):
        if len(rows):
            raise ValueError(
                f"column {name!r} of {path} is {what} in {len(rows):,} rows (the first is row "
                f"{rows[0]}, from 0): write {remedy} or nothing"
            )
