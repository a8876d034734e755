"""The values of one column of a table, as they were read: numbers, texts, or neither."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""Python reads more as numbers, such as 1_1."""


def is_number(text: str) -> bool:
    """Whether a text is a finite number.

    >>> is_number(" -1.5e3"), is_number("1_1"), is_number("nan")
    (True, False, False)
    """
    return _NUMBER.fullmatch(text) is not None and bool(np.isfinite(float(text)))


@dataclass(frozen=True)
class Numbers:
    """A column of numbers."""

    values: npt.NDArray[np.float64]
    """(N,); NaN where one is missing. Dates are days since 1970."""
    whole: bool
    """Whether all of them are whole."""
    dates: bool = False

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], *, dates: bool = False) -> Numbers:
        """A column of which it is found out whether its numbers are whole."""
        there = values[~np.isnan(values)]
        return cls(values, bool((there == np.floor(there)).all()), dates)


@dataclass(frozen=True)
class Texts:
    """A column of texts, each different one stored once."""

    codes: npt.NDArray[np.int32]
    """Places in ``texts``, (N,); -1 where one is missing."""
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Unusable:
    """A column that is no number, no text and no date."""

    reason: str


Values = Numbers | Texts | Unusable
Columns = dict[str, Values]


def as_texts(numbers: Numbers) -> Texts:
    """Numbers as texts, such as the codes of a category; whole ones without a point.

    >>> as_texts(Numbers(np.array([2.0, np.nan, 1.0]), whole=True))
    Texts(codes=array([ 1, -1,  0], dtype=int32), texts=('1', '2'))
    """
    there = ~np.isnan(numbers.values)
    different, places = np.unique(numbers.values[there], return_inverse=True)
    codes = np.full(len(numbers.values), -1, dtype=np.int32)
    codes[there] = places
    whole = numbers.whole and bool(np.isfinite(different).all())
    texts = (str(int(one)) if whole else repr(float(one)) for one in different)
    return Texts(codes, tuple(texts))
