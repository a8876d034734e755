"""A table is known again after it was moved or a label was mended, and not after another change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.experiments.chosen_files import write_split

Frame = Any


def written(path: Path) -> Path:
    lines = ["customer,age,share,city,since,active,zip,churned"]
    for row in range(60):
        age = "" if row % 7 == 3 else str(20 + row % 31)
        city = ("Rome", "Köln", "")[row % 3]
        lines.append(
            f"c{row},{age},{row / 61},{city},2024-01-{1 + row % 28:02},{row % 2 == 0},"
            f"0{row % 5},{('no', 'yes')[row // 5 % 2]}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def loaded(path: Path, **options: Any) -> DataSplits:
    return load_dataset(f"table:{path}", label="churned", **options)


def mended(frame: Frame) -> Frame:
    frame.loc[5, "churned"] = "yes"
    return frame


def aged(frame: Frame) -> Frame:
    frame.loc[5, "age"] += 1
    return frame


def left(frame: Frame) -> Frame:
    frame.loc[5, "customer"] = "c6"
    return frame


SAME: list[Callable[[Frame], Frame]] = [
    lambda frame: frame,
    mended,
    lambda frame: frame.rename(columns={"age": "years"}),
    lambda frame: frame[sorted(frame.columns)],
]
OTHERS: list[Callable[[Frame], Frame]] = [
    lambda frame: frame.iloc[::-1],
    lambda frame: frame.sort_values("churned", kind="stable"),
    lambda frame: frame.drop(columns="age"),
    aged,
    left,
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("change", "same"), [*((one, True) for one in SAME), *((one, False) for one in OTHERS)]
)
def test_a_list_and_a_split_know_their_table(
    tmp_path: Path, kind: str, change: Callable[[Frame], Frame], same: bool
) -> None:
    import pandas

    path = written(tmp_path / "t.csv")
    first = loaded(path)
    split = write_split(tmp_path, first)
    gone = tmp_path / "gone.csv"
    row = next(name for name in first.samples["train"] if name != "5")
    gone.write_text(f'row,data\n{row},"{first.known_by}"\n')
    changed = change(pandas.read_csv(path, dtype={"zip": str}))
    other = tmp_path / f"other.{kind}"
    changed.to_csv(other, index=False) if kind == "csv" else changed.to_parquet(other, index=False)
    if same:
        assert loaded(other, split=split).samples == first.samples
        assert loaded(other, without=gone).left_out.by_list == ("gone.csv", 1)
        return
    with pytest.raises(ValueError, match="no row was moved, remove 'known_by' from it"):
        loaded(other, split=split)
    with pytest.raises(ValueError, match="no row was moved, remove the column 'data' from it"):
        loaded(other, without=gone)
    assert split is not None
    trusted = {key: one for key, one in json.loads(split.read_text()).items() if key != "known_by"}
    split.write_text(json.dumps(trusted))
    assert loaded(other, split=split).samples == first.samples


@pytest.mark.parametrize("use", ["category", "leave-out"])
def test_columns_may_be_used_in_another_way(tmp_path: Path, use: str) -> None:
    path = written(tmp_path / "t.csv")
    names = ("customer", "age", "share", "since", "active", "zip")
    others = loaded(path, columns=dict.fromkeys(names, use))
    assert others.known_by == loaded(path).known_by
