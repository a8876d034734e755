"""Some rows of a table as a table of its own, with all columns and values as they were."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipt_cords.base.files import write_atomic
from lipt_cords.data.tables.csv_file import CsvFile
from lipt_cords.data.tables.parquet_file import PARQUET, explained, opened

Rows = npt.NDArray[np.int64]


def write_rows(source: Path, rows: Collection[int], target: Path) -> Path:
    """Write some rows of a table, in their order in it, whole or not at all.

    Args:
        source: a CSV or Parquet file that can be read.
        rows: their numbers, from 0 on.
        target: a file of the same kind.
    """
    chosen = np.array(sorted(rows), dtype=np.int64)
    made = _parquet if source.suffix.lower() in PARQUET else _csv
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(target, made(source, chosen))


def _csv(source: Path, chosen: Rows) -> bytes:
    table = CsvFile(source)
    written = [_lines([table.heading], table.separator)]
    for number, chunk in enumerate(table.as_written()):
        start = number * table.rows
        places = chosen[(chosen >= start) & (chosen < start + len(chunk))] - start
        written.append(_lines(chunk.iloc[places].fillna("").to_numpy().tolist(), table.separator))
    return "".join(written).encode()


def _lines(rows: Sequence[Sequence[str]], separator: str) -> str:
    text = io.StringIO(newline="")
    # The writer leaves values with a line end of another kind than its own without quotes.
    inside = any("\r" in value for row in rows for value in row)
    csv.writer(
        text,
        delimiter=separator,
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if inside else csv.QUOTE_MINIMAL,
    ).writerows(rows)
    return text.getvalue()


def _parquet(source: Path, chosen: Rows) -> bytes:
    from pyarrow import BufferOutputStream, parquet

    file = opened(source)
    parts, start = [], 0
    for number in range(file.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        places = chosen[(chosen >= start) & (chosen < start + count)] - start
        if len(places):
            with explained(source):
                parts.append(file.read_row_group(number).take(places))
        start += count
    held = BufferOutputStream()
    with parquet.ParquetWriter(held, file.schema_arrow) as writer:
        for part in parts:
            writer.write_table(part)
    return bytes(held.getvalue())
