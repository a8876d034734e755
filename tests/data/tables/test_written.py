"""Rows that are written are read again as they were."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords.data.tables.csv_file import CsvFile
from lipt_cords.data.tables.written import write_rows

CELLS = st.text(st.sampled_from("ab1 ,;\"'\n\r\t#é"), max_size=5)


def values(path: Path) -> list[list[str]]:
    return [row for part in CsvFile(path).as_written() for row in part.to_numpy().tolist()]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8),
    chosen=st.sets(st.integers(0, 7), min_size=1),
    separator=st.sampled_from(",;\t|"),
)
def test_any_values_survive(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    chosen: set[int],
    separator: str,
) -> None:
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
        out.writerows([("a\rb", 'c"', "end"), *((*row, "1") for row in rows)])
    whole = values(path)
    assert whole == [[*row, "1"] for row in rows]
    kept = sorted(number for number in chosen if number < len(rows))
    few = write_rows(path, kept, path.with_name("few.csv"))
    assert CsvFile(few).heading == ["a\rb", 'c"', "end"]
    assert values(few) == [whole[number] for number in kept]


def test_rows_without_the_heading_s_last_separator(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y,\n1,no\n2,yes\n")
    assert write_rows(path, [1], tmp_path / "few.csv").read_text() == "a,y,\n2,yes,\n"
