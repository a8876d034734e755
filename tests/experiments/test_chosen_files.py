"""What a selection leaves for people: which files, in a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import photo_folders
import pytest
import torch

from lipt_cords import select
from lipt_cords.base.files import read_json
from lipt_cords.cli.commands import main
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import load_dataset
from lipt_cords.experiments.chosen_files import write_table
from lipt_cords.experiments.run import run
from lipt_cords.experiments.select_once import select_once


def photos(root: Path, count: int = 20) -> Path:
    return photo_folders.photos(root, count, side=8, ending=".png")


def configured(root: Path, **dss: object) -> RunConfig:
    return RunConfig.parse(
        {
            "dataset": {"name": f"imagefolder:{root}"},
            "dss_args": {"type": "Random", "selector": "fast", "fraction": 0.25, **dss},
            "train_args": {"num_epochs": 2, "device": "cpu"},
        }
    )


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "selected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_names_the_files_of_an_image_folder(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets")
    config = configured(root, type="EL2N", selector=None)
    made = select_once(config, output=tmp_path / "out")
    assert made is not None
    table = rows(tmp_path / "out")
    assert list(table[0]) == ["path", "index", "label", "class", "weight", "score"]
    record = read_json(tmp_path / "out" / "selection.json")
    assert [int(row["index"]) for row in table] == record["indices"]
    names = load_dataset(config.dataset.name).samples["train"]
    for row, score in zip(table, record["scores"], strict=True):
        assert row["path"] == names[int(row["index"])] and (root / row["path"]).is_file()
        assert row["path"].split("/")[0] == row["class"] == ("cat", "dog")[int(row["label"])]
        assert float(row["weight"]) == 1 and float(row["score"]) == pytest.approx(score, rel=1e-8)


def test_other_data_are_named_by_their_place(tmp_path: Path) -> None:
    digits = load_dataset("digits", limit=40)
    write_table(tmp_path, digits, torch.tensor([7, 3]), torch.tensor([1.5, 0.5]))
    (first, second) = rows(tmp_path)
    assert list(first) == ["sample", "index", "label", "weight", "data"]
    assert first["sample"] == digits.samples["train"][7] and second["weight"] == "0.5"


def test_train_writes_its_last_selection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photos(tmp_path / "pets")
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"dataset: {{name: 'imagefolder:{root}'}}\n"
        "dss_args: {type: Random, selector: fast, fraction: 0.25, select_every: 1}\n"
        "train_args: {num_epochs: 2, device: cpu}\n"
    )
    anew = ["--set", "dss_args.type=RS2", "--set", "dss_args.selector=null"]
    assert main(["train", str(config), *anew, "--output", str(tmp_path / "anew")]) == 0
    assert "the last of 2 selections: " in capsys.readouterr().out
    assert main(["train", str(config), "--output", str(tmp_path / "run")]) == 0
    assert "the only selection: " in capsys.readouterr().out  # twice the same subset
    record = run(configured(root, select_every=1))
    assert record is not None and record.subsets is not None
    assert len(rows(tmp_path / "run")) == record.subsets["size"] == 8


def test_a_fraction_where_a_count_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = torch.arange(40) % 2
    assert torch.equal(select("random", labels, 0.1).indices, select("random", labels, 4).indices)
    assert len(select("random", labels, np.float32(0.001))) == 1
    for wrong in (0.0, 1.5, float("nan"), -0.1, "5%"):
        with pytest.raises(ValueError, match=r"whole number or a fraction in \(0, 1\]"):
            select("random", labels, wrong)
    root = photos(tmp_path / "pets")
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"dataset: {{name: 'imagefolder:{root}'}}\n"
        "dss_args: {type: Random}\ntrain_args: {device: cpu}\n"
    )
    command = ["select", str(config), "--output", str(tmp_path / "out"), "--fraction"]
    assert main([*command, "50%"]) == 0
    assert len(rows(tmp_path / "out")) == 16
    capsys.readouterr()
    for wrong_text, message in (
        ("half", "--fraction: expected a share"),
        ("150", "received '150' (150 of 3,000 samples are 0.05)"),
    ):
        assert main([*command, wrong_text]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
