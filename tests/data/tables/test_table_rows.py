"""Rows become inputs as scikit-learn would make them, measured on training rows alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from lipt_cords.data.contents import contents_of
from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.data.labels import labels_of
from lipt_cords.data.source import BatchSource
from lipt_cords.data.tables import rows as module
from lipt_cords.data.tables.rows import TableRows
from lipt_cords.data.tables.uses import Uses
from lipt_cords.data.tables.values import Numbers, Texts

VALUES = st.one_of(
    st.just(float("nan")),
    st.integers(-5, 5).map(float),
    st.integers(-1000, 1000).map(lambda n: n / 10),
)


def held(numbers: Any, codes: Any) -> TableRows:
    uses = Uses(
        {f"n{place}": Numbers(column, False) for place, column in enumerate(numbers.T)},
        {
            f"c{place}": Texts(column.astype(np.int32), tuple("abcdefgh"))
            for place, column in enumerate(codes.T)
        },
        {},
    )
    return TableRows.of(uses, torch.zeros(len(numbers)).long())


@settings(max_examples=80, deadline=None)
@given(
    numbers=arrays(np.float64, (12, 2), elements=VALUES),
    codes=arrays(np.int64, (12, 2), elements=st.integers(-1, 7)),
    train=st.integers(2, 11),
    most=st.integers(1, 9),
)
def test_inputs_are_those_of_scikit_learn(numbers: Any, codes: Any, train: int, most: int) -> None:
    numbers[0] = 1.0  # a column without any value is left out before
    before, module.CATEGORIES = module.CATEGORIES, most
    try:
        rows = held(numbers, codes).measured_on(torch.arange(train))
    finally:
        module.CATEGORIES = before
    inputs, _ = rows.gather(torch.arange(12))
    filled = SimpleImputer(add_indicator=True).fit(numbers[:train]).transform(numbers)
    mean = filled[:train, :2].mean(axis=0)
    # Of values that are there: filled ones lie at the mean and add nothing.
    std = np.nanstd(numbers[:train], axis=0)
    flat = std < 1e-9
    standard = np.where(flat, 0.0, (filled[:, :2] - mean) / np.where(flat, 1.0, std))
    np.testing.assert_allclose(inputs[:, :2], standard, rtol=1e-3, atol=1e-3)
    gaps = filled.shape[1] - 2
    np.testing.assert_array_equal(inputs[:, 2 : 2 + gaps], filled[:, 2:])
    ones = inputs[:, 2 + gaps :].numpy()
    start = 0
    for column in codes.T:
        seen, counts = np.unique(column[:train], return_counts=True)
        ranked = seen[np.argsort(-counts, kind="stable")]
        alone, others = ranked[:most], ranked[most:]
        expected = OneHotEncoder(
            categories=[np.sort(alone)], handle_unknown="ignore", sparse_output=False
        ).fit_transform(column[:, None])[:, np.searchsorted(np.sort(alone), alone)]
        if len(others):
            expected = np.hstack([expected, np.isin(column, others)[:, None]])
        width = expected.shape[1]
        np.testing.assert_array_equal(ones[:, start : start + width], expected)
        start += width
    assert start == ones.shape[1] and bool(torch.isfinite(inputs).all())


def test_one_row_and_many_are_read_alike() -> None:
    draws = np.random.default_rng(0)
    rows = held(draws.normal(1e9, 10, (30, 2)), draws.integers(-1, 8, (30, 2)))
    inputs, labels = rows.gather(torch.tensor([3, 5]))
    assert torch.equal(rows[5][0], inputs[1]) and rows[5][1] == int(labels[1])
    assert torch.equal(rows.__getitems__([3, 5])[0][0], inputs[0])
    few = rows.select(torch.tensor([5, 3]))
    assert torch.equal(few.gather(torch.tensor([1]))[0][0], inputs[0])
    source = BatchSource(rows, [3, 5], cache_bytes=0)
    assert torch.equal(next(source.batches(batch_size=2))[0], inputs)
    # float32 alone would leave steps of 64 at a thousand million.
    assert abs(float(rows.gather(torch.arange(30))[0][:, 0].std()) - 1) < 0.05


def test_a_far_value_elsewhere_does_not_flatten_a_column() -> None:
    numbers = np.random.default_rng(0).normal(size=(40, 1))
    numbers[39] = 1e12
    inputs, _ = (
        held(numbers, np.empty((40, 0))).measured_on(torch.arange(39)).gather(torch.arange(39))
    )
    assert abs(float(inputs.std(correction=0)) - 1) < 1e-3


def test_contents_notice_a_changed_value() -> None:
    draws = np.random.default_rng(0)
    numbers, codes = draws.normal(size=(50, 2)), draws.integers(0, 8, (50, 1))
    before = contents_of(held(numbers, codes))
    assert before == contents_of(held(numbers.copy(), codes))
    numbers[31, 1] += 0.1
    assert before != contents_of(held(numbers, codes))


def customers(path: Path, count: int = 300) -> Path:
    """A table with an id, gaps, a rare city and classes that follow from age and plan."""
    draws = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["customer_id", "age", "city", "plan", "churned"])
        for row in range(count):
            age, plan = draws.integers(18, 80), draws.choice(["basic", "plus", "pro"])
            city = f"only {row}" if row % 50 == 7 else draws.choice(["Rome", "Oslo, north", ""])
            left = "yes" if age / 40 + (plan == "basic") > 1.6 else "no"
            out.writerow([1000 + row, "" if row % 10 == 3 else age, city, plan, left])
    return path


def loaded(path: Path, **options: Any) -> DataSplits:
    return load_dataset(f"table:{path}", label="churned", **options)


def test_a_table_is_loaded_as_a_folder_is(tmp_path: Path) -> None:
    path = customers(tmp_path / "customers.csv")
    splits = loaded(path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (243, 27, 30)  # type: ignore[arg-type]
    assert splits.class_names == ("no", "yes") and splits.naming == "row"
    assert str(splits) == (
        "300 rows: 243 for training, 27 for validation, 30 for testing; "
        f"{splits.input_shape[0]} inputs of 1 number (age), 2 categories (city: 8, plan: 3); "
        "1 column left out: customer_id (an id: different in every row)"
    )
    names = [name for part in splits.samples.values() for name in part]
    assert sorted(map(int, names)) == list(range(300))
    written = [row["churned"] for row in csv.DictReader(path.open())]
    for part in ("train", "val", "test"):
        labels = labels_of(getattr(splits, part)).tolist()
        assert [splits.class_names[one] for one in labels] == [
            written[int(name)] for name in splits.samples[part]
        ]
    again, other = loaded(path), loaded(path, seed=1)
    assert splits.samples == again.samples and splits.samples != other.samples
    assert splits.samples["test"] == other.samples["test"]


def test_test_rows_that_are_training_rows_too_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = customers(tmp_path / "customers.csv")
    loaded(path)
    assert "training row" not in caplog.text
    heading, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([heading, *lines * 2]))
    loaded(path)
    assert "of 60 test rows of" in caplog.text and "remove the copies" in caplog.text


def test_a_row_is_described_with_dates_as_dates() -> None:
    days = Numbers(np.array([19529.0, np.nan, 11000.5]), whole=False, dates=True)
    prices = Numbers(np.array([1.5, 2.0, np.nan]), whole=False)
    rows = TableRows.of(Uses({"since": days, "price": prices}, {}, {}), torch.zeros(3).long())
    some = rows.select(torch.tensor([2, 1, 0])).measured_on(torch.tensor([0, 1]))
    said = [some.described(place) for place in range(3)]
    assert said == ["since 2000-02-13", "price 2", "since 2023-06-21, price 1.5"]


def test_rows_with_equal_values_are_counted() -> None:
    nan = float("nan")
    numbers = np.array([[1.0, nan], [nan, 1.0], [1.0, nan], [nan, nan], [1.0, nan]])
    rows = held(numbers, np.array([[0, 1], [0, 1], [0, 1], [0, 1], [1, 0]]))
    train, test = rows.select(torch.tensor([2, 3])), rows.select(torch.tensor([0, 1, 4]))
    assert test.equal_to(train) == 1 and train.equal_to(test) == 1


def test_fewer_rows_keep_the_inputs(tmp_path: Path) -> None:
    path = customers(tmp_path / "customers.csv")
    whole = loaded(path)
    rare = next(n for n in whole.samples["train"] if int(n) % 50 == 7)
    gone = tmp_path / "gone.csv"
    gone.write_text(f"row\n{rare}\n")
    without, few = loaded(path, without=gone), loaded(path, limit=40)
    assert without.input_shape == few.input_shape == whole.input_shape
    assert len(without.train) == 242 and len(few.train) == 40  # type: ignore[arg-type]
    assert without.left_out.by_list == ("gone.csv", 1)


def test_a_list_of_rows_of_another_table_is_refused(tmp_path: Path) -> None:
    one, other = customers(tmp_path / "a.csv"), customers(tmp_path / "b.csv", 290)
    gone = tmp_path / "gone.csv"
    gone.write_text(f'row,data\n5,"{loaded(one).known_by}"\n')
    one.rename(tmp_path / "moved.csv")
    assert loaded(tmp_path / "moved.csv", without=gone).left_out.by_list == ("gone.csv", 1)
    with pytest.raises(
        ValueError, match="samples of table, 300 samples, .*, and these data are table, 290"
    ):
        loaded(other, without=gone)


def test_a_list_of_rows_that_were_moved_or_mended_is_refused(tmp_path: Path) -> None:
    path = customers(tmp_path / "customers.csv")
    whole, gone = loaded(path), tmp_path / "gone.csv"
    row = whole.samples["train"][0]
    now = whole.class_names[int(whole.train[0][1])]
    was = {"yes": "no", "no": "yes"}[now]
    gone.write_text(f'row,label,data\n{row},{now},"{whole.known_by}"\n')
    assert loaded(path, without=gone).left_out.by_list == ("gone.csv", 1)
    gone.write_text(f'row,label,data\n{row},{was},"{whole.known_by}"\n')
    with pytest.raises(ValueError, match=rf"another label now: {row} .{was} there, {now} here"):
        loaded(path, without=gone)


def test_a_split_is_kept_to(tmp_path: Path) -> None:
    path = customers(tmp_path / "customers.csv")
    split = tmp_path / "split.json"
    split.write_text('{"train": ["5", "3", "8", "9"], "val": ["4"], "test": ["0", "17"]}')
    splits = loaded(path, split=split)
    assert splits.samples["train"] == ("5", "3", "8", "9") and splits.samples["test"] == ("0", "17")
    assert "293 not in the split" in str(splits)
    text = split.read_text()
    split.write_text(text.replace("{", '{"known_by": "table, 9 samples", '))
    with pytest.raises(ValueError, match="dataset.split is of table, 9 .* data are table, 300 "):
        loaded(path, split=split)
    split.write_text(text.replace("{", f'{{"known_by": "{splits.known_by}", '))
    assert loaded(path, split=split).samples == splits.samples
    split.write_text('{"train": ["5", "300"], "val": ["4"], "test": ["0"]}')
    with pytest.raises(ValueError, match="1 samples that are not in .*: 300"):
        loaded(path, split=split)


def test_rows_without_a_label_are_named(tmp_path: Path) -> None:
    path = customers(tmp_path / "customers.csv")
    lines = path.read_text().splitlines()
    for row in (2, 40):
        lines[row + 1] = lines[row + 1].rpartition(",")[0] + ","
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"2 of 300 rows .* have no 'churned': rows 2, 40 .from 0"):
        loaded(path)
    splits = loaded(path, skip_unreadable=True)
    assert "2 unreadable left out: 2 (no churned), 40 (no churned)" in str(splits)
    names = {int(name) for part in splits.samples.values() for name in part}
    assert names == set(range(300)) - {2, 40}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("table:none.csv", {}, "no file none.csv, nor data/none.csv"),
        ("table:.", {}, "is a folder: give one CSV or Parquet file"),
        ("table:{path}.xlsx", {}, "expected a table such as data.csv"),
        ("table:{path}", {"image_size": 8}, "image_size is for imagefolder:DIR alone"),
        ("digits", {"label": "y"}, "label and columns are for table:FILE alone"),
    ],
)
def test_wrong_names_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    path = customers(tmp_path / "customers.csv", 5)
    path.with_name("customers.csv.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load_dataset(name.format(path=path), **options)


def test_training_rows_of_one_class_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,no\n2.5,yes\n4,yes\n")
    with pytest.raises(ValueError, match="the 1 training rows of .* are of one class, yes: add"):
        load_dataset(f"table:{path}")


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n")
    with pytest.raises(ValueError, match="has a heading and no rows"):
        load_dataset(f"table:{path}")
