"""Lists of samples by name, as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

COLUMN = "sample"
"""The column that names samples; others are ignored."""
NAMED = 5


def read_sample_list(path: str | Path, known: Collection[str]) -> set[str]:
    """Names of samples in the column ``sample`` of a CSV file.

    Args:
        path: the file.
        known: every sample of the data set.

    Raises:
        ValueError: no such file, no such column, or a name that the data set does not have.
    """
    where = Path(path).expanduser()
    if not where.is_file():
        raise ValueError(f"no file {where}: give a CSV with a column {COLUMN!r}")
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns: Sequence[str] = rows.fieldnames or ()
            if COLUMN not in columns:
                raise ValueError(
                    f"{where} has no column {COLUMN!r} (it has {', '.join(columns) or 'none'}): "
                    "give a list such as the suspects.csv of lipt-cords clean"
                )
            names = [row[COLUMN] for row in rows if row[COLUMN]]
    except UnicodeDecodeError:
        raise ValueError(f"{where} is no text file: give a CSV with a column {COLUMN!r}") from None
    unknown = [name for name in names if name not in known]
    if unknown:
        more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
        raise ValueError(
            f"{where} names samples that this data set does not have: "
            f"{', '.join(unknown[:NAMED])}{more}. Make the list from the same data"
        )
    return set(names)
