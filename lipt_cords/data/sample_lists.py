"""Lists of samples by name, as CSV files."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lipt_cords.base.listing import NAMED, listed
from lipt_cords.data.tables.identity import VALUES

COLUMNS = ("path", "row", "sample")
"""The first of these columns that is there names samples."""
SEPARATORS = ",;\t"
"""Spreadsheets save a list with the separator of their language; the first one on a tie."""
OF = "data"
"""The column that says of which data a list is; lists without it, and other columns, are read."""


def read_sample_list(
    path: str | Path, known: Collection[str], of: str = "", labels: Mapping[str, str] | None = None
) -> set[str]:
    """Names of samples in the column ``path``, ``row`` or ``sample`` of a CSV file.

    Args:
        path: the file.
        known: every sample of the data set.
        of: what :func:`known_by` says of the data set.
        labels: what samples are labelled, by name; a list that says of which data it is has to
            agree.

    Raises:
        ValueError: no such file, no such column, a list of other data, a sample with another label
            than the list says, or a name that the data set does not have.
    """
    where = Path(path).expanduser()
    if not where.is_file():
        raise ValueError(f"no file {where}: give a CSV with a column 'path', 'row' or 'sample'")
    # Names of old file systems may be no UTF-8.
    with where.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        heading = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter=max(SEPARATORS, key=heading.count))
        columns: Sequence[str] = rows.fieldnames or ()
        named = next((name for name in COLUMNS if name in columns), None)
        if named is None:
            raise ValueError(
                f"{where} has no column 'path', 'row' or 'sample' (it has "
                f"{', '.join(columns[:NAMED]) or 'none'}): give a list such as the suspects.csv of "
                "lipt-cords clean"
            )
        lines = [row for row in rows if row[named]]
    names = [row[named] for row in lines]
    made_from = {row.get(OF) or of for row in lines}
    if others := sorted(made_from - {of}) if of else []:
        raise ValueError(
            f"{where} lists samples of {listed(others)}, and these data are {of}: make the list "
            "from these data, as lipt-cords clean does"
            + "".join({values_changed(one, of, f"the column {OF!r}") for one in others})
        )
    relabelled = []
    for row in lines:
        said, now = row.get("class") or row.get("label"), (labels or {}).get(row[named])
        if row.get(OF) and said and now not in (None, said):
            relabelled.append(f"{row[named]} ({said} there, {now} here)")
    if relabelled:
        raise ValueError(
            f"{where} lists samples that have another label now: {listed(relabelled)}. Remove the "
            "lines of labels that you have mended, or make the list anew if samples have moved"
        )
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"{where} names samples that this data set does not have: {listed(unknown)}. Make the "
            "list from the same data"
        )
    return set(names)


def known_by(name: str, labels: Tensor) -> str:
    """What tells a data set, whose samples have numbers alone, from others.

    Of a table see :func:`~lipt_cords.data.tables.identity.known_by_values`.

    Args:
        name: of the data set.
        labels: of all its samples in their order, (N,), integers.

    >>> known_by("digits", torch.tensor([3, 1, 4]))
    'digits, 3 samples, labels 0057aef4'
    """
    digest = hashlib.sha256(labels.to(torch.int64).contiguous().numpy().data).hexdigest()[:8]
    return f"{name}, {len(labels):,} samples, labels {digest}"


def values_changed(was: str, now: str, mark: str) -> str:
    """What to do where two tables differ in their values alone, or nothing.

    Args:
        was: what the table of a list is known by.
        now: what the present one is known by.
        mark: what says so in the list.

    >>> values_changed("table, 3 samples, values 1a", "table, 3 samples, values 2b", "'known_by'")
    ". If values were changed and no row was moved, remove 'known_by' from it"
    >>> values_changed("digits, 3 samples, labels 1a", "digits, 4 samples, labels 2b", "'known_by'")
    ''
    """
    if VALUES not in was or was.partition(VALUES)[0] != now.partition(VALUES)[0]:
        return ""
    return f". If values were changed and no row was moved, remove {mark} from it"


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
