"""What tells a table from others, so that lists of its rows are not taken for those of another."""

from __future__ import annotations

import hashlib

import numpy as np

from lipt_cords.data.tables.csv_file import days_of
from lipt_cords.data.tables.values import Columns, Numbers, Texts, Unusable

VALUES = ", values "
"""What stands before the digest."""
_TRUTHS = {"true": 1.0, "false": 0.0}


def known_by_values(rows: int, columns: Columns) -> str:
    """What tells a table from others: its size, and a digest of its values.

    The file may be moved, renamed, or saved as CSV in place of Parquet; columns may be renamed and
    stand in another order, and be used otherwise. A value that is changed and rows that are moved
    are noticed.

    Args:
        rows: how many there are.
        columns: besides the label, which may be mended.

    >>> ages = Numbers(np.array([31.0, 44.0]), whole=True)
    >>> known_by_values(2, {"age": ages})
    'table, 2 samples, values 2174ea41'
    """
    used = [one for one in columns.values() if not isinstance(one, Unusable)]
    digest = hashlib.sha256(b"".join(sorted(map(_digest, used)))).hexdigest()[:8]
    return f"table, {rows:,} samples{VALUES}{digest}"


def _digest(column: Numbers | Texts) -> bytes:
    if isinstance(column, Texts):
        column = _as_numbers(column) or column
    if isinstance(column, Numbers):
        with np.errstate(over="ignore"):
            # In float32, as readers of CSV differ in the last bits of fractions.
            whole = Numbers.of(column.values).whole
            held = (column.values + 0.0).astype(np.float64 if whole else np.float32)
        held[np.isnan(held)] = np.nan  # of the same bits
        return hashlib.sha256(held.data).digest()
    codes, first, places = np.unique(column.codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    texts = [column.texts[code] if code >= 0 else "" for code in codes[order].tolist()]
    total = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass"))
    total.update(np.argsort(order)[places].astype(np.int32).data)
    return total.digest()


def _as_numbers(column: Texts) -> Numbers | None:
    """Numbers, dates or truths that are kept as texts, such as those of a category, or None."""
    try:
        values = np.array([float(_TRUTHS.get(text.lower(), text)) for text in column.texts])
    except ValueError:
        days = days_of(column.texts)
        if days is None:
            return None
        values = days
    return Numbers.of(np.append(values, np.nan)[column.codes])
