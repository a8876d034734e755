"""What becomes of columns, and which is the label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipt_cords.data.tables.label_column import classes_of, label_name
from lipt_cords.data.tables.uses import uses_of
from lipt_cords.data.tables.values import Columns, Numbers, Texts, Unusable

TABLE = Path("t.csv")


def numbers(*values: float, dates: bool = False) -> Numbers:
    held = np.array(values, dtype=np.float64)
    there = held[np.isfinite(held)]
    return Numbers(held, bool((there == there.round()).all()), dates)


def texts(*values: str | None) -> Texts:
    different = sorted({one for one in values if one is not None})
    codes = [-1 if one is None else different.index(one) for one in values]
    return Texts(np.array(codes, dtype=np.int32), tuple(different))


def columns() -> Columns:
    rows = range(40)
    return {
        "customerId": numbers(*(7.0 * row for row in rows)),
        "age": numbers(*(7.0 * row for row in rows)),
        "line": numbers(*reversed(rows)),
        "price": numbers(*(row + 0.5 for row in rows)),
        "since": numbers(*rows, dates=True),
        "gap": numbers(*[np.nan, 1.0] * 20),
        "same": numbers(*[3.0] * 40),
        "nothing": numbers(*[np.nan] * 40),
        "city": texts(*["Rome", "Oslo", None, "Bonn"] * 10),
        "code": texts(*(f"x{row}" for row in rows)),
        "note": texts(*(f"a note that is number {row}" for row in rows)),
        "parts": Unusable("of type list<int64>"),
        "long": numbers(*(1e18 + 512 * (row // 2) for row in rows)),
        "column 1": numbers(*(3 * row for row in rows)),
        "__index_level_0__": numbers(*(row // 2 for row in rows)),
        "day": texts(*(f"{row % 28 + 1}.0{row // 5 + 1}.2024" for row in rows)),
        "gaps": texts("-", *(f"{row}.5" for row in rows[1:])),
        "until": texts("open", *(f"2024-01-{row % 28 + 1}" for row in rows[1:])),
        "cost": texts(*(f"$ {row}.50" for row in rows)),
        "weight": texts(*(f"1 {row:03} kg" for row in rows)),
        "digits": texts(*(f"{10**30 + row}" for row in rows)),
        "atoms": numbers(*(6.022e23 * (row // 2) for row in rows)),
        "equal": numbers(*[1e18] * 40),
    }


def test_columns_are_used_or_left_out_with_a_reason() -> None:
    made = uses_of(TABLE, columns(), {})
    assert list(made.numbers) == ["age", "price", "since", "gap", "atoms"]
    assert list(made.categories) == ["city"]
    assert made.left_out == {
        "customerId": "an id: different in every row",
        "line": "an id: different in every row",
        "same": "one value",
        "nothing": "empty",
        "code": "an id: 40 different in 40 rows",
        "note": "free text: 40 different in 40 rows",
        "parts": "of type list<int64>",
        "long": "an id: whole numbers of more than 15 digits",
        "column 1": "an id: different in every row",
        "__index_level_0__": "the index of pandas",
        "day": "dates that are not written as 2024-05-31: 40 different in 40 rows",
        "gaps": "numbers, but also '-': 40 different in 40 rows",
        "until": "dates, but also 'open': 29 different in 40 rows",
        "cost": "numbers written as '$ 0.50': 40 different in 40 rows",
        "weight": "numbers written as '1 000 kg': 40 different in 40 rows",
        "digits": "an id: 40 different in 40 rows",
        "equal": "an id: whole numbers of more than 15 digits",
    }


def test_a_use_that_is_asked_for_is_kept_to() -> None:
    wanted = {"customerId": "number", "age": "category", "city": "leave-out", "note": "category"}
    made = uses_of(TABLE, columns(), wanted)
    assert "customerId" in made.numbers and made.categories["age"].texts[:2] == ("0", "7")
    assert made.left_out["city"] == "as asked" and len(made.categories["note"].texts) == 40


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"wage": "number"}, "names 'wage', which is no column of t.csv"),
        ({"age": "ignore"}, "unknown use of column 'age'.*'leave-out'"),
        ({"city": "number"}, "holds texts such as 'Bonn', 'Oslo', 'Rome'"),
        (dict.fromkeys(columns(), "leave-out"), "no column of t.csv is left"),
    ],
)
def test_wrong_uses_are_refused(wanted: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        uses_of(TABLE, columns(), wanted)


def test_an_infinite_number_is_refused_by_its_row() -> None:
    with pytest.raises(ValueError, match="'a' of t.csv is infinite in 1 rows .the first is row 2"):
        uses_of(TABLE, {"a": numbers(1, 2, np.inf)}, {})


def test_numbers_whose_differences_may_be_infinite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"beyond 1e.307 in 2 rows .the first is row 1, from 0"):
        uses_of(TABLE, {"a": numbers(1, 1.7e308, -1.7e308, 0.5)}, {})
    assert "a" in uses_of(TABLE, {"a": numbers(1, 1e307, -1e307, 0.5)}, {}).numbers


def test_a_table_of_labels_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="t.csv has no column beside the label: add some"):
        uses_of(TABLE, {}, {})


@pytest.mark.parametrize("written", [("0,5", "12,25"), ("1,200", "900", None), ("-1.234,5", "1")])
def test_numbers_with_commas_are_refused(written: tuple[str | None, ...]) -> None:
    held = {"a": texts(*written), "b": numbers(*range(1, 1 + len(written)))}
    with pytest.raises(ValueError, match=r"'a' of t.csv holds numbers with commas.* as 1234.5"):
        uses_of(TABLE, held, {})
    assert "a" in uses_of(TABLE, held, {"a": "category"}).categories


@pytest.mark.parametrize(
    ("names", "given", "found"),
    [
        (["a", "Label"], None, "Label"),
        (["y", "x"], None, "y"),
        (["y", "label"], "y", "y"),
        (["a", "b"], None, "none is label, target, class, y.*--set dataset.label.*are a, b"),
        (["y", "Target"], None, "y and Target may all be it"),
        (["Churned", "b"], "churned ", "no column 'churned '.*did you mean 'Churned'"),
        (["1", "2.5"], None, "heading of t.csv holds numbers alone"),
        (["1", "yes"], None, "which column .* are 1, yes. If these are values, add a heading"),
    ],
)
def test_the_label_is_found_or_asked_for(names: list[str], given: str | None, found: str) -> None:
    if found in names:
        assert label_name(TABLE, names, given) == found
        return
    with pytest.raises(ValueError, match=found):
        label_name(TABLE, names, given)


def test_numbers_are_classes_by_value() -> None:
    labels, names = classes_of(TABLE, "y", texts("10", "2", "2.0", None, "010"))
    assert names == ("2", "10") and labels.tolist() == [1, 0, 0, -1, 1]
    labels, names = classes_of(TABLE, "y", texts("no", "yes", "no ", " "))
    assert names == ("no", "yes") and labels.tolist() == [0, 1, 0, -1]


def test_classes_that_are_no_numbers_or_large_ones_are_told_apart() -> None:
    labels, names = classes_of(TABLE, "y", texts("1_1", "11", "2_1"))
    assert names == ("11", "1_1", "2_1") and labels.tolist() == [1, 0, 2]
    labels, names = classes_of(TABLE, "y", texts("9007199254740993", "9007199254740992", "7"))
    assert names == ("7", "9007199254740992", "9007199254740993") and labels.tolist() == [2, 1, 0]


def test_classes_that_differ_in_case_alone_are_said(caplog: pytest.LogCaptureFixture) -> None:
    _, names = classes_of(TABLE, "y", texts("no", "No", "yes"))
    assert names == ("No", "no", "yes")
    assert "'No' and 'no': write them alike if they are one" in caplog.text


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (texts("a", "a"), "has one class, a: expected at least two"),
        (texts("a", None), "one class, a, and 1 rows without one .in CSV, NA, null and None"),
        (texts(None, None), "has no value"),
        (texts(*(str(n / 7) for n in range(60)), *["0.5"] * 600), "different numbers.*a quantity"),
        (texts(*map(str, range(60)), "1", "2"), "60 different numbers.*Make classes"),
        (texts(*(f"t{n}" for n in range(60))), "60 different texts in 60 rows"),
    ],
)
def test_what_is_no_class_is_refused(column: Texts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classes_of(TABLE, "y", column)
