"""Columns of a CSV file, read in parts: what is stored is numbers, and each different text once.

A column is read as numbers, as dates or as texts, whichever all its values are. One that turns out
to be of two kinds is read again, as texts.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lipt_cords.base.errors import missing_extra
from lipt_cords.base.listing import listed
from lipt_cords.data.tables.values import Columns, Numbers, Texts

ROWS = 50_000
"""Most rows that are read at once."""
VALUES = 25_000_000
"""Most values that are: of wide tables fewer rows."""
SEPARATORS = (",", ";", "\t", "|")
"""The one that the heading has most of separates values."""
MISSING = ["?"]
"""Read as a missing value besides what pandas does: nothing, NA, N/A, NaN, null, None."""
LONGEST = 16_000_000
"""Characters of a first line; without an end a file is no table."""
LONGEST_NAME = 1_000
"""Characters of a column's name."""
_ICONV = "save it as UTF-8, for instance by iconv -f {} -t utf-8"
_OTHER_KINDS = (
    (b"\xff\xfe\0\0", "UTF-32", _ICONV.format("utf-32")),
    (b"\xff\xfe", "UTF-16", _ICONV.format("utf-16")),
    (b"\xfe\xff", "UTF-16", _ICONV.format("utf-16")),
    (b"\x1f\x8b", "compressed by gzip", "unpack it"),
    (b"PK\x03\x04", "a zip archive, as Excel writes", "unpack it, or export it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "export it as CSV"),
    (b"PAR1", "Parquet", "rename it to end in .parquet"),
)
"""First bytes, what they say, and what to do."""
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)(Z|[+-]\d\d:?\d\d)?)?"
)


class CsvFile:
    """A CSV file whose heading has been read.

    Args:
        path: UTF-8, with a heading. Values are separated by commas, semicolons, tabs or bars.

    Raises:
        ValueError: another encoding, one column, columns of one name, nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heading, self.separator = _heading(path)
        """The names as they are written, and what separates values."""
        self.names = [
            name.strip() or f"column {place}" for place, name in enumerate(self.heading, 1)
        ]
        """Of the columns; one without a name is called by its place, such as ``column 1``."""
        refuse_twice(path, self.names)
        self.rows = min(ROWS, max(1, VALUES // len(self.names)))
        """Rows of a part."""

    def read(self, as_text: Collection[str] = ()) -> Columns:
        """Read all columns.

        Args:
            as_text: columns whose values are kept as they are written.

        Raises:
            ValueError: another encoding, or lines of other lengths than the heading.
            ImportError: pandas is not installed.
        """
        texts = {name for name in self.names if name in as_text}
        while True:
            made = {name: _Gathered(name in texts) for name in self.names}
            for chunk in self._chunks(texts):
                for name in self.names:
                    made[name].add(chunk[name])
            mixed = {name for name, one in made.items() if len(one.kinds) > 1}
            if not mixed:
                columns = {name: made.pop(name).whole() for name in self.names}
                if _some_missing(columns[self.names[-1]]):
                    self._refuse_short_rows()
                return {**columns}
            texts |= mixed

    def as_written(self) -> Iterator[Any]:
        """Frames of the rows with every value as it is written, in parts."""
        return self._chunks(set(self.names), missing=False)

    def _refuse_short_rows(self) -> None:
        """Refuse rows with fewer values than the heading, such as the last one of half a file.

        pandas reads them as rows that end in missing values.
        """
        width = len(self.names)
        limit = csv.field_size_limit(2**31 - 1)
        try:
            with explained(self.path), self.path.open(newline="", encoding="utf-8-sig") as file:
                rows = csv.reader(file, delimiter=self.separator)
                for row in rows:
                    if len(row) < width and (len(row) > 1 or any(map(str.strip, row))):
                        raise ValueError(
                            f"{self.path} has {len(row)} of {width} values in the row that ends in "
                            f"line {rows.line_num:,}: complete it, or remove it"
                        )
        finally:
            csv.field_size_limit(limit)

    def _chunks(self, texts: set[str], *, missing: bool = True) -> Iterator[Any]:
        path, names, separator = self.path, self.names, self.separator
        try:
            import pandas
        except ImportError as error:
            raise missing_extra("pandas", "tables", f"to read {path.name}") from error
        with explained(path):
            try:
                with pandas.read_csv(
                    path,
                    sep=separator,
                    names=names,
                    header=0,
                    index_col=False,  # else a value more in each row makes the first ones an index
                    dtype=dict.fromkeys(texts, str),
                    na_values=MISSING if missing else None,
                    keep_default_na=missing,
                    chunksize=self.rows,
                    low_memory=False,
                    encoding="utf-8",
                ) as chunks:
                    while True:
                        with warnings.catch_warnings():
                            warnings.simplefilter("error", pandas.errors.ParserWarning)
                            chunk = next(chunks, None)
                        if chunk is None:
                            return
                        yield chunk
            except pandas.errors.ParserWarning as error:
                raise ValueError(
                    f"{path} has more values in its rows than names in its heading ({len(names)}): "
                    f"complete the heading, or quote values that hold {separator!r}"
                ) from error
            except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
                reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
                raise ValueError(
                    f"{path} cannot be read as CSV ({reason}): repair that line, or quote values "
                    f"that hold {separator!r}"
                ) from error


def _heading(path: Path) -> tuple[list[str], str]:
    """The heading as it is written, and what separates values."""
    _refuse_other_kinds(path)
    with explained(path), path.open(newline="", encoding="utf-8-sig") as file:
        lines = iter(partial(file.readline, LONGEST), "")
        line = next((line for line in lines if line.strip()), None)
        if line is None:
            raise ValueError(f"{path} is empty: expected a heading and rows")
        separator = _separator(line)
        while separator is None and line.count('"') % 2 and len(line) < LONGEST_NAME:
            more = next(lines, "")  # of a name in several lines
            if not more:
                break
            line += more
            separator = _separator(line)
        if separator is None or len(line) == LONGEST:
            has = "one column" if separator is None else f"a first line of {LONGEST:,} characters"
            raise ValueError(
                f"{path} has {has}, {line.strip()[:60]!r}: expected columns separated by "
                "commas, semicolons or tabs, one of them the label"
            )
        file.seek(0)
        rows = csv.reader(file, delimiter=separator)
        try:
            found = next(row for row in rows if len(row) > 1 or any(map(str.strip, row)))
        except csv.Error as error:
            if "field limit" not in str(error):
                raise
            found = None
        if found is None or max(map(len, found)) > LONGEST_NAME:
            raise ValueError(
                f"the heading of {path}, {line.strip()[:60]!r}, has a name of more than "
                f"{LONGEST_NAME:,} characters: close its quote, or add a line with names"
            )
        return found, separator


def _separator(line: str) -> str | None:
    """What separates the names of a heading, or None."""
    unquoted = re.sub(r'(^|[,;\t|])"[^"]*"?', r"\1", line)
    most = max(SEPARATORS, key=unquoted.count)
    return most if most in unquoted else None


def _refuse_other_kinds(path: Path) -> None:
    """Refuse what is no text in UTF-8 by its first bytes, and say what it is."""
    with path.open("rb") as file:
        head = file.read(4096)
    for begin, kind, remedy in _OTHER_KINDS:
        if head.startswith(begin):
            raise ValueError(f"{path} is {kind}, not CSV in UTF-8: {remedy}")
    if 0 in head:
        first, second = head[::2].count(0), head[1::2].count(0)
        remedy = "repair it"
        if max(first, second) > 9 * min(first, second):  # of each letter one byte
            remedy = _ICONV.format("utf-16be" if first > second else "utf-16le")
        raise ValueError(f"{path} holds zero bytes, which no text in UTF-8 does: {remedy}")


def refuse_twice(path: Path, names: Sequence[str]) -> None:
    """Refuse columns of one name."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} has columns of one name: {listed(twice)}. Rename or remove them")


def _some_missing(column: Numbers | Texts) -> bool:
    """Whether values are missing in some rows, and not in all."""
    missing = column.codes < 0 if isinstance(column, Texts) else np.isnan(column.values)
    return bool(missing.any()) and not bool(missing.all())


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Give what readers say of a broken file a sentence that says what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        wrong = error.object[error.start : error.start + 1].hex()
        raise ValueError(
            f"{path} is not UTF-8 (byte 0x{wrong}): {_ICONV.format('latin1')}"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file ({error}): repair it") from error


class _Gathered:
    """One column, part by part."""

    def __init__(self, as_text: bool) -> None:
        self.kinds: set[str] = set()
        self._as_text = as_text
        self._parts: list[Any] = []
        self._codes: dict[str, int] = {}

    def add(self, series: Any) -> None:
        """The values of some more rows."""
        numeric = series.dtype.kind in "iuf"
        if series.dtype.kind != "b" and not bool(series.notna().any()):
            self._parts.append(np.full(len(series), np.nan))  # fits every kind
            return
        if numeric:
            self.kinds.add("numbers")
            self._parts.append(series.to_numpy(np.float64))
            return
        codes, different = series.factorize()
        values = list(different)
        true_or_false = all(isinstance(one, bool | np.bool_) for one in values)
        texts = [str(one) for one in values]
        days = None if self._as_text else days_of(texts)
        if days is not None:
            self.kinds.add("dates")
            self._parts.append(np.append(days, np.nan)[codes])
            return
        self.kinds.add("truths" if true_or_false else "texts")
        places = [self._codes.setdefault(text, len(self._codes)) for text in texts]
        self._parts.append(np.array([*places, -1], dtype=np.int32)[codes])

    def whole(self) -> Numbers | Texts:
        """All values; the parts are given up."""
        parts, self._parts = self._parts, []
        if not self._as_text and not self.kinds & {"texts", "truths"}:
            values = np.concatenate([np.empty(0), *parts])
            return Numbers.of(values, dates="dates" in self.kinds)
        codes = [np.where(np.isnan(part), -1, part).astype(np.int32) for part in parts]
        return Texts(np.concatenate(codes), tuple(self._codes))


def days_of(texts: Sequence[str]) -> Any:
    """Days since 1970 of dates as ISO 8601 writes them; None if one is something else.

    >>> days_of(["1970-01-03", "1970-01-01T12:00:00Z"]).tolist(), days_of(["1970-02-31"])
    ([2.0, 0.5], None)
    """
    days = np.empty(len(texts))
    for place, text in enumerate(texts):
        found = _DATE.fullmatch(text)
        if found is None:
            return None
        day, clock, zone = found.groups()
        try:
            moment = np.datetime64(f"{day}T{clock or '00:00'}", "us")
        except ValueError:
            return None
        minutes = 0
        if zone not in (None, "Z"):
            digits = zone.replace(":", "")
            minutes = int(digits[0] + "1") * (60 * int(digits[1:3]) + int(digits[3:]))
        days[place] = moment.astype(np.int64) / 86_400e6 - minutes / 1440
    return days
