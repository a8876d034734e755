"""Columns of a Parquet file, read one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lipt_cords.base.errors import missing_extra
from lipt_cords.data.tables.csv_file import days_of, refuse_twice
from lipt_cords.data.tables.values import Columns, Numbers, Texts, Unusable, Values, as_texts

PARQUET = (".parquet", ".pq")
"""How such files end."""
_DAY = 86_400e6
_TEXTS = ("string", "large_string", "binary", "large_binary", "fixed_size_binary")
"""How types of texts begin, views of them included; some writers store texts as bytes."""


class ParquetFile:
    """A Parquet file whose names of columns have been read.

    Args:
        path: the file.

    Raises:
        ValueError: no Parquet file, or columns of one name.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = opened(path)
        self.names: list[str] = list(self._file.schema_arrow.names)
        refuse_twice(path, self.names)

    def read(self, as_text: Collection[str] = ()) -> Columns:
        """Read all columns.

        Args:
            as_text: columns whose values are kept as texts.

        Raises:
            ValueError: the file is damaged.
        """
        columns: Columns = {}
        for name in self.names:
            with explained(self.path):
                column = self._file.read(columns=[name], use_pandas_metadata=False).column(name)
            columns[name] = _values(column, name in as_text)
        return columns


def opened(path: Path) -> Any:
    """The file as pyarrow gives it.

    Raises:
        ValueError: no Parquet file.
        ImportError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "tables", f"to read {path.name}") from error
    with explained(path):
        return parquet.ParquetFile(path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Give what pyarrow says of a broken file a sentence that says what to do."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as Parquet ({said}): replace it") from error


def _values(column: Any, as_text: bool) -> Values:
    """One column of pyarrow's; numbers as texts if asked for."""
    from pyarrow import ArrowException, compute, types

    kind = column.type
    if types.is_dictionary(kind):
        column = compute.cast(column, kind.value_type)
        kind = column.type
    boolean = types.is_boolean(kind)
    if boolean or str(kind).startswith(_TEXTS):
        try:
            written = compute.cast(column, "large_string")
        except ArrowException:
            return Unusable(f"of type {kind}, and no text in UTF-8")
        coded = written.combine_chunks().dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        texts = coded.dictionary.to_pylist()
        days = None if as_text or boolean or not texts else days_of(texts)
        if days is not None:
            return Numbers(np.append(days, np.nan)[codes], whole=False, dates=True)
        return Texts(codes, tuple(text.capitalize() if boolean else text for text in texts))
    dates = types.is_date(kind) or types.is_timestamp(kind)
    if dates:
        microseconds = compute.cast(compute.cast(column, "timestamp[us]", safe=False), "int64")
        values = compute.cast(microseconds, "float64", safe=False).to_numpy() / _DAY
        return Numbers(values, whole=False, dates=True)
    if types.is_null(kind):
        empty = Numbers(np.full(len(column), np.nan), whole=True)
        return as_texts(empty) if as_text else empty
    if as_text and types.is_integer(kind):
        return _whole_as_texts(column)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        values = compute.cast(column, "float64", safe=False).to_numpy().astype(np.float64)
        numbers = Numbers.of(values)
        return as_texts(numbers) if as_text else numbers
    return Unusable(f"of type {kind}")


def _whole_as_texts(column: Any) -> Texts:
    """Whole numbers of any size, each told from the others; in ascending order."""
    coded = column.combine_chunks().dictionary_encode()
    different = coded.dictionary.to_numpy(zero_copy_only=False)
    order = np.argsort(different)
    ranks = np.empty(len(order) + 1, dtype=np.int32)
    ranks[order], ranks[-1] = np.arange(len(order)), -1
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Texts(ranks[codes], tuple(map(str, different[order].tolist())))
