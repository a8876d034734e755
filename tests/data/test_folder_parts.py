"""Folders of images as people have them: what is left out is said, what is unclear is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_folders import photos

from lipt_cords.cli.commands import main
from lipt_cords.data import folder_parts as module
from lipt_cords.data.datasets import load_dataset
from lipt_cords.data.image_files import decoded

DAMAGED = {
    "cat/empty.jpg": (b"", "empty"),
    "cat/half.jpg": (None, "truncated"),
    "dog/page.png": (b"<html>", "not an image, or damaged at its beginning"),
}


def damage(root: Path) -> None:
    whole = (root / "cat" / "0.jpg").read_bytes()
    for name, (content, _) in DAMAGED.items():
        (root / name).write_bytes(whole[: len(whole) // 2] if content is None else content)


@pytest.mark.parametrize("in_memory", [True, False])
def test_unreadable_files_are_left_out_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(module, "DECODE_BYTES", 100)
    name = f"imagefolder:{photos(tmp_path)}"
    without = load_dataset(name, image_size=8)
    damage(tmp_path)
    with pytest.raises(ValueError, match="3 of 23 images in .* cannot be read") as caught:
        load_dataset(name, image_size=8)
    for path, (_, why) in DAMAGED.items():
        assert f"{path} ({why})" in str(caught.value)
    with_them = load_dataset(name, image_size=8, skip_unreadable=True)
    assert with_them.left_out.unreadable == {path: why for path, (_, why) in DAMAGED.items()}
    assert with_them.samples == without.samples
    for part in ("train", "val", "test"):
        one, other = getattr(without, part), getattr(with_them, part)
        assert len(one) == len(other) == len(without.samples[part])
        for mine, theirs in zip(one, other, strict=True):
            assert torch.equal(mine[0], theirs[0]) and mine[1] == theirs[1]
    assert str(with_them) == (
        "20 images: 16 for training, 2 for validation, 2 for testing; 3 unreadable left out: "
        "cat/empty.jpg (empty), cat/half.jpg (truncated), dog/page.png (not an image, or damaged "
        "at its beginning)"
    )


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path: Path) -> None:
    photos(tmp_path, classes=("cat", "dog", "owl"))
    for path in (tmp_path / "owl").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no image of owl in the train part of .* can be read"):
        load_dataset(f"imagefolder:{tmp_path}", skip_unreadable=True)


def test_names_are_those_of_the_files(tmp_path: Path) -> None:
    splits = load_dataset(f"imagefolder:{photos(tmp_path)}", limit=7)
    assert splits.root == tmp_path and splits.left_out.over_limit == 9
    assert len({name for names in splits.samples.values() for name in names}) == 7 + 2 + 2
    for place, name in enumerate(splits.samples["train"]):
        assert torch.equal(decoded(str(tmp_path / name)), splits.train.images[place])
    digits = load_dataset("digits", limit=50)
    assert len(digits.samples["train"]) == 50 and digits.samples["test"][0].startswith("all/")


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    photos(tmp_path)
    for name in ("labels.csv", "cat/a.heic", "cat/b.heic", "loose.jpg", "dog/LICENSE"):
        (tmp_path / name).write_bytes(b"x")
    assert str(load_dataset(f"imagefolder:{tmp_path}")).endswith(
        "; 5 other files left out (.heic, .csv, .jpg, no ending)"
    )
    for name in ("labels.csv", "cat/a.heic", "cat/b.heic", "loose.jpg"):
        (tmp_path / name).unlink()
    assert str(load_dataset(f"imagefolder:{tmp_path}", limit=10)).endswith(
        "; 1 other file left out (no ending); 6 beyond the limit"
    )


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        photos(tmp_path / part, count)
    (tmp_path / "test" / "owl").mkdir()
    line = str(load_dataset(f"imagefolder:{tmp_path}"))
    assert line.endswith("; no image in test/owl")
    (tmp_path / "train" / "owl").mkdir()
    with pytest.raises(ValueError, match="no image in owl of .*train: add images to these classes"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_classes_beside_parts_are_refused(tmp_path: Path) -> None:
    for part in ("Train", "dev"):
        photos(tmp_path / part, 4)
    photos(tmp_path / "owls", 2, (".", "more"))
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="Train/, dev/ and beside them images in owls/, which"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_inverted_grey_of_sixteen_bits(tmp_path: Path) -> None:
    grey = (np.arange(64).reshape(8, 8) * 1000).astype("<u2")
    entries = {
        256: (4, 8), 257: (4, 8), 258: (3, 16), 259: (3, 1), 262: (3, 0), 273: (4, 122),
        277: (3, 1), 278: (4, 8), 279: (4, grey.nbytes),
    }  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, (kind, v) in entries.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + b"\0\0\0\0"
    (tmp_path / "x.tif").write_bytes(head + b"\0" * (122 - len(head)) + (65535 - grey).tobytes())
    assert np.array_equal(decoded(str(tmp_path / "x.tif"))[0].numpy(), grey >> 8)


def test_the_command_says_what_became_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(photos(tmp_path / "pets"))
    config = tmp_path / "mine.yaml"
    config.write_text(
        f'dataset: {{name: "imagefolder:{tmp_path}/pets", image_size: 8}}\n'
        "dss_args: {type: Random, fraction: 0.2}\ntrain_args: {device: cpu}\n"
    )
    command = ["select", str(config), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "3 of 23 images" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*command, "--skip-unreadable"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("20 images: 16 for training, 2 for validation, 2 for testing; 3 unread")
    assert shown.count("3 unreadable left out: cat/empty.jpg (empty)") == 1  # not noted again
    notes = json.loads((tmp_path / "out" / "selection.json").read_text())["notes"]
    assert any("3 unreadable left out: cat/empty.jpg (empty)" in one for one in notes)
