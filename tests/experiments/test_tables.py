"""A table goes through the commands as an image folder does."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lipt_cords.cli.commands import main
from lipt_cords.cords.config import RunConfig, load_config
from lipt_cords.experiments.run import build_net, load_splits

HEADING = ["customer_id", "age", " city", "price", "note", "churned"]


def rows(count: int = 160) -> list[list[str]]:
    """Old customers leave; two labels are wrong."""
    draws = np.random.default_rng(0)
    made = []
    for number in range(count):
        age = int(draws.integers(18, 80))
        left = (age > 50) != (number in (11, 42))
        note = f'said "{number}",\nand more of it' if number % 2 else ""
        made.append(
            [f"0{number}", str(age if number in (11, 42) or number % 9 else ""),
             str(draws.choice(["Rome", "Köln"])), f"{draws.integers(1, 9)}.50", note,
             "yes" if left else "no"]
        )  # fmt: skip
    return made


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with Path("customers.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADING, *rows()])
    Path("mine.yaml").write_text(
        'dataset: {name: "table:customers.csv", label: churned}\n'
        "dss_args: {type: Covering, fraction: 0.1}\n"
        "train_args: {num_epochs: 2, device: cpu}\n"
    )
    return tmp_path


def listed(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_chosen_rows_are_listed_and_copied(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", "mine.yaml", "--output", "subset", "--copy", "few/few.csv"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "160 rows: 130 for training, 14 for validation, 16 for testing; " in said
    assert "5 inputs of 2 numbers (age, price), 1 category (city: 2)" in said
    assert "2 columns left out: customer_id (an id: " in said and "note (free text: " in said
    assert "few/few.csv: 13 rows" in said
    chosen = listed("subset/selected.csv")
    assert list(chosen[0]) == ["row", "index", "label", "class", "weight", "score", "data"]
    assert len({one["data"] for one in chosen}) == 1
    assert chosen[0]["data"].startswith("table, 160 samples, values ")
    numbers = sorted(int(one["row"]) for one in chosen)
    with Path("few/few.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [HEADING, *(rows()[number] for number in numbers)]
    assert [path.name for path in Path("few").iterdir()] == ["few.csv"]
    without = load_config("mine.yaml", ["dataset.without=subset/selected.csv"])
    assert len(load_splits(without).train) == 130 - 13  # type: ignore[arg-type]
    split = json.loads(Path("subset/split.json").read_text())
    assert split["dataset"] == "table:customers.csv" and len(split["train"]) == 130


def test_parquet_keeps_its_types(table: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    held = dict(zip(HEADING, zip(*rows(), strict=True), strict=True))
    whole = pyarrow.table(held).set_column(
        1, "age", pyarrow.array([int(age or 0) for age in held["age"]], pyarrow.int16())
    )
    parquet.write_table(whole, "customers.parquet", row_group_size=50)
    command = ["select", "mine.yaml", "--set", "dataset.name=table:customers.parquet"]
    assert main([*command, "--output", "subset", "--copy", "few.parquet"]) == 0
    chosen = listed("subset/selected.csv")
    expected = whole.take(sorted(int(one["row"]) for one in chosen))
    assert parquet.read_table("few.parquet").equals(expected)


def test_wrong_labels_are_listed_by_row_and_left_out(table: Path) -> None:
    assert main(["clean", "mine.yaml", "--output", "clean"]) == 0
    found = listed("clean/suspects.csv")
    assert {"11", "42"} <= {one["row"] for one in found[:8]}
    page = Path("clean/suspects.html").read_text()
    assert "row 42" in page and "<span>age " in page
    command = ["train", "mine.yaml", "--set", "dataset.without=clean/suspects.csv"]
    assert main([*command, "--output", "trained"]) == 0
    results = json.loads(Path("trained/results.json").read_text())
    assert any("left out by suspects.csv" in note for note in results["notes"])
    assert results["config"]["model"]["architecture"] == "mlp"
    assert results["config"]["dataset"]["label"] == "churned"


@pytest.mark.parametrize("command", ["select", "train", "compare", "clean", "warmstart"])
@pytest.mark.parametrize("net", ["architecture=ResNet8", "timm=resnet18"])
def test_a_net_for_images_is_refused_before_the_table_is_read(
    table: Path, capsys: pytest.CaptureFixture[str], command: str, net: str
) -> None:
    Path("customers.csv").unlink()
    assert main([command, "mine.yaml", "--set", f"model.{net}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "reads images, and table:customers.csv has rows of a table: leave it out" in said
    assert "one that reads rows (mlp" in said


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--copy", "few.parquet"], "received few.parquet: name a new file that ends in .csv"),
        (["--copy", "customers.csv"], "customers.csv is there already"),
        (["--link", "few.csv"], "--link makes links to image files"),
        (["--set", "dataset.columns.age=text"], "dataset.columns.age"),
        (["--set", "dataset.label=gone"], "no column 'gone' to be the label"),
    ],
)
def test_what_does_not_fit_is_refused(
    table: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    command = ["select", "mine.yaml", "--set", "dss_args.type=GLISTER", "--output", "subset"]
    assert main([*command, *extra]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(Path("subset").glob("*.*"))


def test_an_mlp_reads_a_table_and_any_net_of_a_module_may(table: Path) -> None:
    config = load_config("mine.yaml")
    splits = load_splits(config)
    net = build_net(config, splits)
    assert net(splits.train[0][0][None]).shape == (1, 2)
    assert RunConfig.parse({"dataset": {"name": "digits"}}).model.architecture == "cnn"
    other = {"architecture": "my_module:make_net"}
    with pytest.raises(ValueError, match="my_module"):
        RunConfig.parse({"dataset": {"name": "table:x.csv"}, "model": other})


def test_gradients_choose_after_a_warm_start(table: Path) -> None:
    warm = "{num_workers: 2, common_steps: 2, local_steps: 2, batch_size: 16}"
    command = ["train", "mine.yaml", "--set", "dss_args.type=GLISTER"]
    assert main([*command, "--set", f"dss_args.warm_start={warm}", "--output", "warm"]) == 0
    results = json.loads(Path("warm/results.json").read_text())
    assert results["warm_start"]["passes"] > 0 and len(listed("warm/selected.csv")) == 13


def test_a_table_is_compared(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "mine.yaml", "--methods", "random,none+covering", "--seeds", "1"]
    assert main([*command, "--output", "compared"]) == 0
    assert Path("compared/report.html").is_file()
    assert "160 rows" in capsys.readouterr().out
