"""Lists of samples by name, as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lipt_cords.base.listing import NAMED, listed

COLUMNS = ("path", "row", "sample")
"""The first of these columns that is there names samples; others are ignored."""


def read_sample_list(path: str | Path, known: Collection[str]) -> set[str]:
    """Names of samples in the column ``path``, ``row`` or ``sample`` of a CSV file.

    Args:
        path: the file.
        known: every sample of the data set.

    Raises:
        ValueError: no such file, no such column, or a name that the data set does not have.
    """
    where = Path(path).expanduser()
    if not where.is_file():
        raise ValueError(f"no file {where}: give a CSV with a column 'path', 'row' or 'sample'")
    # Names of old file systems may be no UTF-8.
    with where.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        columns: Sequence[str] = rows.fieldnames or ()
        named = next((name for name in COLUMNS if name in columns), None)
        if named is None:
            raise ValueError(
                f"{where} has no column 'path', 'row' or 'sample' (it has "
                f"{', '.join(columns[:NAMED]) or 'none'}): give a list such as the suspects.csv of "
                "lipt-cords clean"
            )
        names = [row[named] for row in rows if row[named]]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"{where} names samples that this data set does not have: {listed(unknown)}. Make the "
            "list from the same data"
        )
    return set(names)


def as_csv(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A list as :func:`read_sample_list` reads it.

    >>> as_csv(["path", "label"], [["a.jpg", 3]])
    b'path,label\\na.jpg,3\\n'
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(heading)
    lines.writerows(rows)
    # Names of old file systems may be no UTF-8.
    return text.getvalue().encode(errors="surrogateescape")
