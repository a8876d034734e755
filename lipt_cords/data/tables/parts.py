"""The parts of a table: its file read, its columns put to use, and its rows divided."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lipt_cords.base.listing import listed
from lipt_cords.base.randomness import generator
from lipt_cords.data.parts import LeftOut, Part, Parts
from lipt_cords.data.split_file import Split, places_of, unnamed
from lipt_cords.data.splits import stratified_split
from lipt_cords.data.tables.csv_file import CsvFile
from lipt_cords.data.tables.identity import known_by_values
from lipt_cords.data.tables.label_column import NOTHING, classes_of, label_name
from lipt_cords.data.tables.leaks import leaks
from lipt_cords.data.tables.parquet_file import PARQUET, ParquetFile
from lipt_cords.data.tables.rows import TableRows
from lipt_cords.data.tables.uses import CATEGORY, uses_of
from lipt_cords.data.tables.values import Texts

logger = logging.getLogger(__name__)

TABLE_PREFIX = "table:"
"""Of the name of a table as a data set."""
COPIES = 0.5
"""Share of the test rows that may occur in training without a word."""
CSV = (".csv", ".tsv", ".txt")


def is_table(name: object) -> bool:
    """Whether the name of a data set is that of a table.

    >>> is_table("Table:customers.csv"), is_table("digits")
    (True, False)
    """
    return str(name).lower().startswith(TABLE_PREFIX)


def table_parts(
    path: Path,
    label: str | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    skip_unreadable: bool = False,
    split: Split | None = None,
) -> Parts:
    """Read a table; rows are called by their numbers, from 0 on.

    Args:
        path: a CSV file with a heading, or a Parquet file.
        label: the column of classes; None takes the one called label, target, class or y.
        columns: a use by name, ``number``, ``category`` or ``leave-out``, for columns that are not
            to be used as :func:`~lipt_cords.data.tables.uses.uses_of` says.
        skip_unreadable: leave out rows without a label; else they are an error.
        split: rows by part; None holds a tenth out for the test, balanced by class.

    Raises:
        ValueError: a file that cannot be read, a label that is not clear, columns that cannot be
            used, rows without a label (they are named).
        ImportError: pandas, or pyarrow for Parquet, is not installed.
    """
    refuse_other_files(path)
    wanted = dict(columns or {})
    file = ParquetFile(path) if path.suffix.lower() in PARQUET else CsvFile(path)
    label = label_name(path, file.names, label)
    as_text = {label, *(name for name, use in wanted.items() if use == CATEGORY)}
    found = file.read(as_text)
    given = found.pop(label)
    if not isinstance(given, Texts):
        raise ValueError(
            f"the label {label!r} of {path} holds no classes but dates or other values: name "
            "another column by dataset.label"
        )
    if not len(given.codes):
        raise ValueError(f"{path} has a heading and no rows")
    labels, classes = classes_of(path, label, given)
    unlabelled = (labels < 0).nonzero().flatten().tolist()
    if unlabelled and not skip_unreadable:
        raise ValueError(
            f"{len(unlabelled):,} of {len(labels):,} rows of {path} have no {label!r}: rows "
            f"{listed(list(map(str, unlabelled)), 20)} (from 0, below the heading; {NOTHING}). "
            "Fill it in, or leave them out by skip_unreadable (--skip-unreadable)"
        )
    of = known_by_values(len(labels), found)
    uses = uses_of(path, found, wanted)
    found.clear()
    rows = TableRows.of(uses, labels)
    everything = Part(rows, tuple(map(str, range(len(rows))))).without(set(unlabelled))
    unreadable = {str(row): f"no {label}" for row in unlabelled}
    unused: tuple[str, ...] = ()
    left_out = LeftOut(unreadable=unreadable, columns=uses.left_out)
    if split is None:
        count = max(1, round(0.1 * len(everything)))
        rest, held = stratified_split(everything.labels, count, generator(0, "table test"))
        places = {"train": rest, "test": held}
    else:
        split.refuse_other_data(of)
        places = places_of(split, everything.names, str(path))
        unused = unnamed(split, everything.names)
        left_out = replace(left_out, not_in_split=len(unused))
    parts = {part: everything.select(indices) for part, indices in places.items()}
    _warn_of_copies(path, parts["train"], parts["test"])
    _warn_of_leaks(path, label, parts["train"])
    return Parts(
        parts["train"],
        parts["test"],
        len(classes),
        parts.get("val"),
        classes,
        file=path,
        left_out=left_out,
        unused=(*unused, *unreadable),
        known_by=of,
    )


def _warn_of_copies(path: Path, train: Part, test: Part) -> None:
    if not isinstance(train.data, TableRows) or not isinstance(test.data, TableRows):
        return
    copies = test.data.equal_to(train.data)
    if copies > COPIES * len(test):
        logger.warning(
            "%s of %s test rows of %s have the values of a training row: if rows were copied, "
            "remove the copies, as the test accuracy is too high with them",
            f"{copies:,}", f"{len(test):,}", path,
        )  # fmt: skip


def _warn_of_leaks(path: Path, label: str, train: Part) -> None:
    if isinstance(train.data, TableRows) and (found := leaks(train.data)):
        logger.warning(
            "of %s a single column gives nearly every %r: %s. Leave out what is not known before "
            "%r is, by dataset.columns: {%r: leave-out}",
            path, label, listed(found), label, found[0],
        )  # fmt: skip


def same_kind(one: Path, other: Path) -> bool:
    """Whether two files are both CSV or both Parquet, by their names."""
    ends = one.suffix.lower(), other.suffix.lower()
    return any(set(ends) <= set(kind) for kind in (CSV, PARQUET))


def refuse_other_files(path: Path) -> None:
    """Refuse a file that is not called as a table is."""
    if path.suffix.lower() not in (*CSV, *PARQUET):
        raise ValueError(
            f"expected a table such as data.csv or data.parquet, received {path}: rename it to end "
            f"in {', '.join((*CSV, *PARQUET))}, or export it as CSV"
        )
