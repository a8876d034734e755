"""Files of tables: every column as numbers, dates or texts; broken files are refused."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords.data.tables import csv_file
from lipt_cords.data.tables.csv_file import CsvFile
from lipt_cords.data.tables.parquet_file import ParquetFile
from lipt_cords.data.tables.values import Numbers, Texts, Unusable, Values


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def plain(column: Values) -> list[float | str | None]:
    if isinstance(column, Numbers):
        return [None if math.isnan(one) else one for one in column.values.tolist()]
    assert isinstance(column, Texts)
    return [None if code < 0 else column.texts[code] for code in column.codes.tolist()]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_kinds_of_columns(tmp_path: Path, separator: str, encoding: str) -> None:
    lines = [
        ["a", "b c", "day", "ok", "name", ""],
        ["1", "0.5", "1970-01-02", "True", "Köln", ""],
        ["", "?", "", "False", '"x\n""y"""', ""],
        ["3", "-2e3", "1970-01-01 12:00", "True", "NA", ""],
    ]
    text = "\n\n".join(separator.join(line) for line in lines) + "\n"  # empty lines are no rows
    found = CsvFile(written(tmp_path / "t.csv", text, encoding)).read()
    assert list(found) == ["a", "b c", "day", "ok", "name", "column 6"]
    assert plain(found["a"]) == [1, None, 3] and plain(found["b c"]) == [0.5, None, -2000]
    assert plain(found["day"]) == [1, None, 0.5] and plain(found["ok"]) == ["True", "False", "True"]
    assert plain(found["name"]) == ["Köln", 'x\n"y"', None]
    assert plain(found["column 6"]) == [None] * 3
    a, b, day = found["a"], found["b c"], found["day"]
    assert isinstance(a, Numbers) and isinstance(b, Numbers) and isinstance(day, Numbers)
    assert a.whole and not b.whole and day.dates and not a.dates


CELLS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(-1e6, 1e6).map(lambda value: f"{value:.3f}"),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=6),
    st.sampled_from(["", "True", "False", "2020-01-31", "007", 'a"b', "x,y", "two\nlines"]),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12))
def test_parts_of_a_file_give_what_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("parts") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b", "end"), *((*row, "1") for row in rows)])
    whole = CsvFile(path).read()
    before, csv_file.VALUES = csv_file.VALUES, 9
    try:
        parts = CsvFile(path).read()
        texts = CsvFile(path).read(as_text=("a", "b"))
    finally:
        csv_file.VALUES = before
    for name, place in (("a", 0), ("b", 1)):
        assert type(parts[name]) is type(whole[name])
        assert plain(parts[name]) == plain(whole[name])
        given_ones = [row[place] for row in rows]
        if isinstance(whole[name], Texts) and set(given_ones) - {"True", "False", ""}:
            kept = [one for one in plain(whole[name]) if one is not None]
            assert kept == [g for g, one in zip(given_ones, plain(whole[name]), strict=True)
                            if one is not None]  # fmt: skip
        as_text = texts[name]
        assert isinstance(as_text, Texts) or all(one is None for one in plain(as_text))


def test_a_column_of_two_kinds_is_texts_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "ROWS", 2)
    path = written(tmp_path / "t.csv", "a,b\n007,1\n08,2\n1.50,3\nx,4\n")
    assert plain(CsvFile(path).read()["a"]) == ["007", "08", "1.50", "x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: expected a heading"),
        (b"\n \n", "is empty: expected a heading"),
        (b"name\n1\n", "has one column, 'name'"),
        (b"a,b,a\n1,2,3\n", "columns of one name: a"),
        ("a,b\n1,K\u00f6ln\n".encode("latin1"), "is not UTF-8 .byte 0xf6.: save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16, not CSV in UTF-8: .*iconv -f utf-16 -t"),
        ("a,b\n1,ö\n".encode("utf-32"), "is UTF-32, not CSV in UTF-8: .*iconv -f utf-32 -t"),
        ("a,b\n1,2\n".encode("utf-16le"), "holds zero bytes, .*iconv -f utf-16le -t"),
        ("漢字,b\n1,字\n".encode("utf-16be"), "holds zero bytes, .*iconv -f utf-16be -t"),
        (b"a,b\n1,2\n" + bytes(400), "holds zero bytes, which no text in UTF-8 does: repair it"),
        (b"\x1f\x8b\x08 more", "is compressed by gzip, .*: unpack it"),
        (b"PK\x03\x04 more", "is a zip archive, as Excel writes, .*export it as CSV"),
        (b"PAR1 more", "is Parquet, .*: rename it to end in .parquet"),
        (b"x" * 10**6, "has one column, 'x{60}'"),
        (b'a,"b,y\n' + b"1,2,3\n" * 300, "heading of .*, 'a,\"b,y', has a name of more than 1,000"),
        (b"a," + b"n" * 200_000 + b"\n1,2\n", "has a name of more than 1,000 characters: close"),
        (b"a,b\n1,2,3\n4,5,6\n", "more values in its rows than names in its heading .2.*quote"),
        (b"a,b\n1,2\n4,5,6\n", "Expected 2 fields in line 3, saw 3.*repair that line"),
        (b'a,b\n1,"2\n', "cannot be read as CSV"),
        (b'a,b\n"1\n",2\n\n  \n3,4\n5\n', "1 of 2 values in the row that ends in line 7: complete"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        CsvFile(path).read()
    assert str(path) in str(refused.value)


def test_a_first_line_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "LONGEST", 1000)
    with pytest.raises(ValueError, match="has a first line of 1,000 characters, 'a,b,a,b"):
        CsvFile(written(tmp_path / "t.csv", "a,b," * 10_000))


def test_names_with_line_ends_and_quotes(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", '\n"age,\n""years""",5" wide;\n1,2\n')
    found = CsvFile(path)
    assert found.names == ['age,\n"years"', '5" wide;'] and found.separator == ","
    assert plain(found.read()['5" wide;']) == [2]


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    dates = np.array(["1970-01-02", "NaT", "1970-01-01T12:00"], dtype="datetime64[ms]")
    table = pyarrow.table(
        {
            "a": pyarrow.array([1, None, 3]),
            "small": pyarrow.array([0.5, None, 2.0], pyarrow.float32()),
            "day": pyarrow.array(dates),
            "ok": [True, False, None],
            "name": pyarrow.array(["Köln", None, "x"]).dictionary_encode(),
            "since": ["1970-01-03", None, "1970-01-01T12:00:00Z"],
            "list": [[1], [2], [3]],
            "none": pyarrow.nulls(3),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    found = ParquetFile(tmp_path / "t.parquet").read(as_text=("a",))
    assert plain(found["a"]) == ["1", None, "3"] and plain(found["small"]) == [0.5, None, 2]
    assert plain(found["day"]) == [1, None, 0.5] and plain(found["ok"]) == ["True", "False", None]
    assert plain(found["name"]) == ["Köln", None, "x"] and plain(found["none"]) == [None] * 3
    assert isinstance(found["since"], Numbers) and plain(found["since"]) == [2, None, 0.5]
    assert isinstance(found["list"], Unusable) and "list" in found["list"].reason
    large = {"code": [2**53, 2**53 + 1, None], "part": [1.0, math.inf, None]}
    parquet.write_table(pyarrow.table(large), tmp_path / "large.parquet")
    found = ParquetFile(tmp_path / "large.parquet").read(as_text=("code", "part"))
    assert plain(found["code"]) == ["9007199254740992", "9007199254740993", None]
    assert plain(found["part"]) == ["1.0", "inf", None]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="broken.parquet cannot be read as Parquet .*: replace it"):
        ParquetFile(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    "kind",
    ["large_string", "string_view", "binary", "large_binary", "binary_view", "fixed", "codes"],
)
def test_texts_of_every_type_of_parquet_are_texts(tmp_path: Path, kind: str) -> None:
    import pyarrow
    from pyarrow import parquet

    given = [b"Rome", None, b"Oslo", b"Rome"]
    if kind == "codes":
        held = pyarrow.array(given).dictionary_encode()
    elif kind == "fixed":
        held = pyarrow.array(given, pyarrow.binary(4))
    else:
        cast = [one and one.decode() for one in given] if "string" in kind else given
        held = pyarrow.array(cast, getattr(pyarrow, kind)())
    other = pyarrow.array([b"\xff\xfe", None, b"a", b"b"])
    parquet.write_table(pyarrow.table({"city": held, "bytes": other}), tmp_path / "t.parquet")
    for as_text in ((), ("city",)):
        found = ParquetFile(tmp_path / "t.parquet").read(as_text)
        assert plain(found["city"]) == ["Rome", None, "Oslo", "Rome"]
        assert found["bytes"] == Unusable("of type binary, and no text in UTF-8")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"a": list(map(str, range(500)))}), path)
    held = bytearray(path.read_bytes())
    held[20:60] = b"\xff" * 40
    path.write_bytes(held)
    with pytest.raises(ValueError, match="t.parquet cannot be read as Parquet .*: replace it"):
        ParquetFile(path).read()


def test_readers_that_are_not_installed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'lipt-cords\[tables\]'"):
        ParquetFile(tmp_path / "t.parquet").read()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pandas.*pip install 'lipt-cords\[tables\]'"):
        CsvFile(written(tmp_path / "t.csv", "a,b\n1,2\n")).read()
