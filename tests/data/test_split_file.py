"""A split that one run writes is the split of every run that is given it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lipt_cords.base.files import read_json
from lipt_cords.cords.config import RunConfig
from lipt_cords.data import folder_parts as module
from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.experiments.chosen_files import write_split
from lipt_cords.experiments.run import run
from lipt_cords.experiments.select_once import select_once

PARTS = ("train", "val", "test")


def photos(root: Path, *parts: str) -> Path:
    draws = np.random.default_rng(0)
    for part in parts or (".",):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(15):
                pixels = draws.integers(0, 255, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def same(one: DataSplits, other: DataSplits) -> bool:
    pairs = [(getattr(one, part), getattr(other, part)) for part in PARTS]
    return one.samples == other.samples and all(
        len(mine) == len(theirs)
        and all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in pairs
    )


def written(path: Path, **parts: Any) -> Path:
    path.write_text(json.dumps(parts))
    return path


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("parts", [(), ("train", "test"), ("train", "dev", "test")])
def test_a_split_is_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(module, "DECODE_BYTES", 100)
    name = f"imagefolder:{photos(tmp_path / 'pets', *parts)}"
    first = load_dataset(name, seed=3, val_fraction=0.2, limit=11, image_size=8)
    path = write_split(tmp_path, first)
    assert path is not None
    again = load_dataset(name, split=path, image_size=8)
    assert same(first, again) and again.input_shape == first.input_shape
    unused = first.left_out.over_limit
    assert unused > 0 and str(again).endswith(f"; {unused} not in the split")
    assert same(again, load_dataset(name, split=path, limit=11, image_size=8))


@pytest.mark.parametrize("limit", [None, 60])
def test_other_data_are_split_again_too(tmp_path: Path, limit: int | None) -> None:
    first = load_dataset("digits", limit=limit, seed=1)
    path = write_split(tmp_path, first)
    assert path is not None and same(first, load_dataset("digits", split=path))


def test_files_may_be_moved_between_parts_and_left_out(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets", "train", "test")
    (root / "test" / "dog" / "9.png").write_bytes(b"")
    moved = {
        "train": ["test/dog/3.png", "train/cat/0.png", "train/dog/7.png"],
        "val": ["train/cat/1.png"],
        "test": ["test/cat/3.png", "train/cat/2.png"],
    }
    splits = load_dataset(f"imagefolder:{root}", split=written(tmp_path / "mine.json", **moved))
    assert splits.samples == {part: tuple(names) for part, names in moved.items()}
    assert splits.train.labels.tolist() == [1, 0, 1]
    assert splits.left_out.unreadable == {}, "files that the split does not name are not read"
    moved["val"] = ["test/dog/9.png", "train/cat/1.png"]
    path = written(tmp_path / "mine.json", **moved)
    with pytest.raises(ValueError, match="1 of 7 images in .* test/dog/9.png .empty"):
        load_dataset(f"imagefolder:{root}", split=path)
    splits = load_dataset(f"imagefolder:{root}", split=path, skip_unreadable=True)
    assert splits.samples["val"] == ("train/cat/1.png",)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": ["cat/0.png"], "val": ["cat/1.png"]}, "no list of names at 'test'"),
        ({"train": "cat/0.png", "val": [], "test": []}, "no list of names at 'train'"),
        ({"train": ["cat/0.png"], "val": [], "test": ["cat/1.png"]}, "names no sample for 'val'"),
        ({"train": ["cat/0.png"], "val": ["cat/1.png"], "test": ["cat/0.png"]},
         "names samples twice: cat/0.png. Keep each in one part"),
        ({"train": ["cat/0.png", "cat/99.png"], "val": ["owl/1.png"], "test": ["dog/1.png"]},
         "names 2 samples that are not in .*pets: cat/99.png, owl/1.png. Give the split of these"),
    ],
)  # fmt: skip
def test_a_wrong_split_is_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    root = photos(tmp_path / "pets")
    with pytest.raises(ValueError, match=message):
        load_dataset(f"imagefolder:{root}", split=written(tmp_path / "mine.json", **parts))


def test_a_split_of_other_data_is_refused_though_it_names_places_too(tmp_path: Path) -> None:
    parts = {"train": ["all/0"], "val": ["all/1"], "test": ["all/2"]}
    path = written(tmp_path / "mine.json", dataset="mnist", **parts)
    with pytest.raises(ValueError, match="is the split of mnist, and the data are digits"):
        load_dataset("digits", split=path)


@pytest.mark.parametrize("kind", ["in memory", "one at a time", "places"])
def test_a_list_to_leave_out_may_name_what_the_split_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name, options = "digits", {}
    if kind != "places":
        name, options = f"imagefolder:{photos(tmp_path / 'pets')}", {"image_size": 8}
    if kind == "one at a time":
        monkeypatch.setattr(module, "DECODE_BYTES", 100)
    whole = load_dataset(name, **options)
    gone = whole.samples["train"][:3]
    listed = tmp_path / "suspects.csv"
    listed.write_text("\n".join(["sample", *gone, whole.samples["test"][0]]))
    first = load_dataset(name, without=listed, **options)
    path = write_split(tmp_path, first)
    again = load_dataset(name, without=listed, split=path, **options)
    assert same(first, again) and again.left_out.by_list == ("suspects.csv", 0)
    path = write_split(tmp_path, whole)
    assert same(first, load_dataset(name, without=listed, split=path, **options))


def test_a_split_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read .*none.json: No such file"):
        load_dataset("digits", split=tmp_path / "none.json")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(ValueError, match="half.json is not valid JSON .* give the split.json of"):
        load_dataset("digits", split=tmp_path / "half.json")


def test_select_and_train_write_the_split_and_take_it(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets")
    (root / "cat" / "bad.png").write_bytes(b"")
    dataset = {"name": f"imagefolder:{root}", "skip_unreadable": True, "val_fraction": 0.3}
    rest = {
        "dss_args": {"type": "Random", "selector": "fast", "fraction": 0.3},
        "train_args": {"num_epochs": 1, "device": "cpu"},
    }
    config = RunConfig.parse({"dataset": dataset, **rest})
    select_once(config, output=tmp_path / "select")
    run(config, output=tmp_path / "run")
    one, other = (read_json(tmp_path / name / "split.json") for name in ("select", "run"))
    assert one == other and one["unreadable"] == {"cat/bad.png": "empty"}
    assert len(one["val"]) == 8 and one["dataset"] == dataset["name"]
    given = {"name": dataset["name"], "split": str(tmp_path / "run" / "split.json")}
    again = RunConfig.parse({"dataset": given, **rest})
    select_once(again, output=tmp_path / "again")
    tables = [(tmp_path / name / "selected.csv").read_text() for name in ("select", "again")]
    assert tables[0] == tables[1]
