"""A column that gives the label away is named, and columns of honest data sets are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets

from lipt_cords.data.datasets import load_dataset
from lipt_cords.data.tables.leaks import leaks
from lipt_cords.data.tables.rows import TableRows
from lipt_cords.data.tables.uses import Uses
from lipt_cords.data.tables.values import Numbers, Texts


def rows(columns: dict[str, Any], labels: Any) -> TableRows:
    numbers = {
        name: Numbers(np.asarray(values, dtype=np.float64), False)
        for name, values in columns.items()
        if not isinstance(values, Texts)
    }
    texts = {name: values for name, values in columns.items() if isinstance(values, Texts)}
    return TableRows.of(Uses(numbers, texts, {}), torch.as_tensor(np.array(labels)).long())


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits"])
def test_honest_data_sets_give_no_alarm(name: str) -> None:
    held = getattr(datasets, f"load_{name}")()
    columns = {str(place): one for place, one in enumerate(held.data.T) if np.ptp(one)}
    assert leaks(rows(columns, held.target)) == []


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_every_kind_of_leak_is_named(share: float) -> None:
    draws = np.random.default_rng(0)
    labels = (draws.random(2000) < share).astype(int)
    wrong = labels.copy()
    flipped = draws.choice(np.flatnonzero(labels == 0), 5)
    wrong[flipped] = 1 - wrong[flipped]
    groups = labels * 40 + draws.integers(0, 40 if share > 0.1 else 2, 2000)
    columns = {
        "noise": draws.normal(size=2000),
        "flag": draws.integers(0, 2, 2000),
        "shop": Texts(draws.integers(0, 30, 2000).astype(np.int32), tuple("x" * 30)),
        "id": Texts(np.arange(2000, dtype=np.int32), tuple(map(str, range(2000)))),
        "equal": labels,
        "nearly": wrong,
        "order": labels + draws.uniform(0, 0.9, 2000),
        "since": np.where(labels == 1, draws.normal(size=2000), np.nan),
        "group": Texts(groups.astype(np.int32), tuple(map(str, range(80)))),
        "reason": Texts(labels.astype(np.int32) - 1, ("moved",)),
    }
    assert leaks(rows(columns, labels)) == ["equal", "nearly", "order", "since", "group", "reason"]


def test_few_rows_and_many_columns_give_no_alarm() -> None:
    draws = np.random.default_rng(0)
    columns = {str(place): draws.normal(size=40) for place in range(2000)}
    assert leaks(rows(columns, np.arange(40) < 9)) == []
    assert leaks(rows(columns, np.arange(40) < 12)) == []


def test_a_leak_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{row * 7 % 53},{'ab'[row % 2]},{('no', 'yes')[row % 2]}" for row in range(200)]
    path.write_text("\n".join(["age,code,churned", *lines]))
    splits = load_dataset(f"table:{path}", label="churned")
    assert len(splits.train) == 162  # type: ignore[arg-type]
    said = f"of {path} a single column gives nearly every 'churned': code. Leave out what is not"
    assert said in caplog.text
    caplog.clear()
    load_dataset(f"table:{path}", label="churned", columns={"code": "leave-out"})
    assert "single column" not in caplog.text
