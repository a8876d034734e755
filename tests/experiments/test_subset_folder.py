"""An image folder of the subset: whole or absent, and never in the place of something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lipt_cords.cli.commands import main
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import load_dataset
from lipt_cords.experiments import subset_folder as module
from lipt_cords.experiments.select_once import select_once


def photos(root: Path, *parts: str) -> Path:
    draws = np.random.default_rng(0)
    for part in parts or (".",):
        for name in ("cat", "dog"):
            (root / part / name / "old").mkdir(parents=True)
            for index in range(20):
                pixels = draws.integers(0, 255, (8, 8, 3)).astype(np.uint8)
                inside = Path("old", f"{index}.png") if index % 2 else Path(f"{index}.png")
                Image.fromarray(pixels).save(root / part / name / inside)
    return root


def configured(root: Path) -> RunConfig:
    return RunConfig.parse(
        {
            "dataset": {"name": f"imagefolder:{root}"},
            "dss_args": {"type": "Random", "fraction": 0.25},
            "train_args": {"device": "cpu"},
        }
    )


def files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("parts", [(), ("Training", "test")])
def test_the_folder_holds_the_chosen_files(
    tmp_path: Path, link: bool, parts: tuple[str, ...]
) -> None:
    root = photos(tmp_path / "pets", *parts)
    made = select_once(configured(root), folder=tmp_path / "new" / "few", link=link)
    assert made is not None and made.splits is not None
    names = [made.splits.samples["train"][i] for i in made.selection.indices.tolist()]
    expected = {name.removeprefix("Training/"): (root / name).read_bytes() for name in names}
    few = tmp_path / "new" / "few"
    assert files(few) == expected and len(expected) == len(made.selection) >= 8
    assert [path.is_symlink() for path in few.rglob("*.png")] == [link] * len(expected)
    assert load_dataset(f"imagefolder:{few}").class_names == ("cat", "dog")
    assert [path.name for path in few.parent.iterdir()] == ["few"]


def test_a_folder_that_would_be_changed_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photos(tmp_path / "pets")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    config = configured(root)
    digits = RunConfig.parse({"dss_args": {"type": "Random"}})
    monkeypatch.setattr("lipt_cords.experiments.select_once.load_splits", None)
    for target, message in (
        (tmp_path / "full", "full is not empty: choose another folder"),
        (tmp_path / "full" / "mine.txt", "found a file: choose another name"),
        (root / "few", "lies in the image folder .*pets or above it"),
        (tmp_path / "out", "is --output: choose another folder"),
        (tmp_path / "full" / ".." / "pets", "is not empty"),
    ):
        with pytest.raises(ValueError, match=message):
            select_once(config, folder=target, output=tmp_path / "out")
    with pytest.raises(
        ValueError, match="take image files or rows of a table, and digits has none"
    ):
        select_once(digits, folder=tmp_path / "few")
    assert not (tmp_path / "out").exists() and not (tmp_path / "few").exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path / "pets")
    copied = []

    def fails(source: Path, place: Path) -> None:
        if len(copied) == 3:
            raise OSError(28, "No space left on device", str(place))
        copied.append(shutil.copy(source, place))

    monkeypatch.setattr(module.shutil, "copy2", fails)
    with pytest.raises(OSError, match="No space left"):
        select_once(configured(root), folder=tmp_path / "few", output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets"]
    assert (tmp_path / "out" / "selected.csv").exists(), "the selection itself is kept"


def test_the_command_copies_or_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = photos(tmp_path / "pets")
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"dataset: {{name: 'imagefolder:{root}'}}\n"
        "dss_args: {type: Random, fraction: 0.25}\ntrain_args: {device: cpu}\n"
    )
    command = ["select", str(config), "--output", str(tmp_path / "out")]
    few = str(tmp_path / "few")
    assert main([*command, "--copy", few, "--link", few]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main([*command, "--copy", few]) == 0
    assert f"{few}: 8 files" in capsys.readouterr().out
    assert main([*command, "--link", few]) == 2
    assert "not empty" in capsys.readouterr().err
