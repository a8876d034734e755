"""Labels that are probably wrong: the list, the page, and training without them."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lipt_cords import choose_subset
from lipt_cords.cli.commands import app
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import load_dataset
from lipt_cords.experiments.clean import check_labels
from lipt_cords.experiments.report.suspects import Suspect

WRONG = ("across/a07.png", "down/d11.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes across and down, one of each in the other's class."""
    root = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    stripes = np.where(np.arange(8) % 2, 190, 60)
    for name in ("across", "down"):
        (root / name).mkdir()
        for number in range(40):
            path = f"{name}/{name[0]}{number:02}.png"
            down = (name == "down") != (path in WRONG)
            mean = stripes[None, :, None] if down else stripes[:, None, None]
            pixels = draws.normal(mean, 12, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / path)
    return root


def configuration(folder: Path, **dataset: object) -> RunConfig:
    return RunConfig.parse(
        {"dataset": {"name": f"imagefolder:{folder}", "image_size": 8, **dataset}}
    )


def test_wrong_labels_of_every_part_are_listed(folder: Path, tmp_path: Path) -> None:
    found = check_labels(configuration(folder))
    assert {one.sample for one in found.suspects} == set(WRONG)
    assert {(one.label, one.likely) for one in found.suspects} == {
        ("across", "down"), ("down", "across"),
    }  # fmt: skip
    assert len(found.samples) == 80 and sorted(count for *_, count in found.pairs()) == [1, 1]
    written = found.save(tmp_path / "out")
    assert [path.name for path in written] == [
        "suspects.csv", "suspects.html", "probabilities.npz", "suspects.json",
    ]  # fmt: skip
    rows = list(csv.DictReader(written[0].open()))
    assert [row["path"] for row in rows] == [one.sample for one in found.suspects]
    assert float(rows[0]["score"]) >= float(rows[1]["score"])
    page = written[1].read_text()
    assert page.count("data:image/png;base64,") == 2 and "2 of 80 labels are suspect" in page
    assert "http:" not in page and "https:" not in page
    arrays = np.load(written[2])
    assert arrays["pred_probs"].shape == (80, 2)
    assert np.allclose(arrays["pred_probs"].sum(axis=1), 1)
    places = [list(arrays["samples"]).index(name) for name in WRONG]
    own = arrays["pred_probs"][np.arange(80), arrays["labels"]]
    assert own[places].max() < 0.5
    assert json.loads(written[3].read_text())["samples"] == 80


def test_the_same_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    first, second = (
        check_labels(configuration(folder)).save(tmp_path / name) for name in ("a", "b")
    )
    for one, other in zip(first[:3], second[:3], strict=True):
        said = other.read_bytes().replace(b"/b/suspects.csv", b"/a/suspects.csv")
        assert one.read_bytes() == said, one.name  # the page says where its list is


def test_training_goes_on_without_the_suspects(folder: Path, tmp_path: Path) -> None:
    listed = check_labels(configuration(folder)).save(tmp_path)[0]
    whole, cleaned = (
        load_dataset(f"imagefolder:{folder}", image_size=8, without=without)
        for without in (None, listed)
    )
    gone: dict[str, set[str]] = {"train": set(WRONG), "val": set(WRONG), "test": set()}
    for part, names in whole.samples.items():
        assert cleaned.samples[part] == tuple(one for one in names if one not in gone[part]), part
    assert len(cleaned.train) == len(cleaned.samples["train"])  # type: ignore[arg-type]
    assert "left out by suspects.csv" in str(cleaned)
    for separator in ";\t":  # as spreadsheets of other languages save it
        listed.write_text("\ufeff" + listed.read_text().lstrip("\ufeff").replace(",", separator))
        again = load_dataset(f"imagefolder:{folder}", image_size=8, without=listed)
        assert again.samples == cleaned.samples
        listed.write_text(listed.read_text().replace(separator, ","))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path\ndown/none.png\n", "down/none.png"),
        ("name,label\nx,y\n", "column 'path', 'row' or 'sample'"),
        ("", "column 'path'"),
    ],
)
def test_a_list_of_other_data_is_refused(
    folder: Path, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_dataset(f"imagefolder:{folder}", image_size=8, without=tmp_path / "list.csv")


def test_a_list_that_leaves_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    names = [name for part in load_dataset(f"imagefolder:{folder}", image_size=8).samples.values()
             for name in part]  # fmt: skip
    (tmp_path / "list.csv").write_text("sample\n" + "\n".join(names))
    with pytest.raises(ValueError, match="no training sample is left"):
        load_dataset(f"imagefolder:{folder}", image_size=8, without=tmp_path / "list.csv")
    with pytest.raises(ValueError, match="no file"):
        load_dataset("digits", without=tmp_path / "absent.csv")


def test_the_command_says_what_it_found(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"dataset: {{name: 'imagefolder:{folder}', image_size: 8}}\n")
    out = tmp_path / "out"
    told = CliRunner().invoke(app, ["clean", str(config), "--output", str(out)])
    assert told.exit_code == 0, told.output
    assert "2 of 80 labels are suspect" in told.output
    for name in WRONG:
        assert name in told.output
    assert str(out / "suspects.html") in told.output.replace("\n", "")
    option = f"--set dataset.without={out / 'suspects.csv'}"
    assert f"leave the others out by {option}\n" in told.output
    assert f"<code>{option}</code>" in (out / "suspects.html").read_text()
    again = CliRunner().invoke(app, ["clean", str(config), "--json", "--output", str(out)])
    assert len(json.loads(again.stdout)["suspects"]) == 2


def test_what_was_left_out_is_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "images")
    (tmp_path / "images/down/broken.png").write_bytes(b"")
    path = load_dataset(f"imagefolder:{folder}", image_size=8).samples["train"][0]
    (tmp_path / "gone.csv").write_text(f"path\n{path}\n")
    found = check_labels(
        configuration(tmp_path / "images", skip_unreadable=True, without=tmp_path / "gone.csv")
    )
    told = ["1 unreadable left out: down/broken.png (empty)", "1 left out by gone.csv"]
    assert [one for one in found.notes if "left out" in one] == told
    page = found.save(tmp_path / "out")[1].read_text()
    assert all(one in page for one in told)


def test_a_list_that_was_edited_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "mine.yaml", tmp_path / "out"
    config.write_text(f"dataset: {{name: 'imagefolder:{folder}', image_size: 8}}\n")
    found = check_labels(configuration(folder))
    listed = found.save(out)[0]
    found.save(out)
    edited = "".join(listed.read_text().splitlines(keepends=True)[:2])
    listed.write_text(edited)
    told = CliRunner().invoke(app, ["clean", str(config), "--output", str(out)])
    assert "not as it was written" in str(told.exception)
    with pytest.raises(ValueError, match="would be written over: choose another --output"):
        found.save(out)
    assert listed.read_text() == edited


def test_embeddings_of_a_trained_net_compare_too(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from lipt_cords.models import build_model

    config = configuration(folder).updated(model={"architecture": "cnn"})
    net = build_model("cnn", 2, in_channels=3, image_size=8, seed=0)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = check_labels(config, checkpoint=tmp_path / "net.safetensors")
    assert {one.sample for one in found.suspects} == set(WRONG)
    assert "embeddings" in found.features and "fewer" in found.notes[0]
    tested = sum(one.part == "test" for one in found.suspects)
    assert tested and found.notes[-1].endswith(f"which dataset.without keeps: {tested}")
    with pytest.raises(ValueError):
        check_labels(config, checkpoint=tmp_path / "absent.safetensors")


def test_a_set_without_files_is_named_by_places() -> None:
    found = check_labels(RunConfig.parse({"dataset": {"name": "digits", "limit": 300}}))
    assert all(part in ("train", "val", "test") for part in {one.part for one in found.suspects})
    assert torch.equal(found.issues.given[:5], torch.tensor([found.data[i][1] for i in range(5)]))


def test_a_list_says_of_which_data_it_is(tmp_path: Path) -> None:
    found = check_labels(RunConfig.parse({"dataset": {"name": "digits", "limit": 300}}))
    one = Suspect("all/3", "train", "3", "5", 0.5, 0)
    text = replace(found, suspects=[one]).table().decode()
    assert text.startswith("sample,part,label,likely,score,data\n")
    of = load_dataset("digits").known_by
    assert of.startswith("digits, 1,797 samples, labels ") and of in text
    (tmp_path / "list.csv").write_text(f'sample,data\nall/3,"{of}"\nall/5,"{of}"\n')
    digits = load_dataset("digits", without=tmp_path / "list.csv", val_fraction=0.3, seed=2)
    assert digits.left_out.by_list is not None
    (tmp_path / "list.csv").write_text('sample,data\nall/3,"mnist, 70,000 samples, labels 1"\n')
    with pytest.raises(ValueError, match=r"samples of mnist, 70,000 .* these data are digits, 1"):
        load_dataset("digits", without=tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("sample,part\nall/3,train\n")  # of an earlier version
    assert load_dataset("digits", without=tmp_path / "list.csv").left_out.by_list is not None


def test_features_that_say_nothing_are_told(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name in ("heads", "tails"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(30):
            pixels = draws.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    found = check_labels(configuration(tmp_path / "images"))
    assert "do not tell the classes apart" in found.notes[0]
    assert "do not tell the classes apart" in found.save(tmp_path / "out")[1].read_text()
    chosen = choose_subset(
        load_dataset(f"imagefolder:{tmp_path / 'images'}", image_size=8).train, 0.2
    )
    assert "do not tell the classes apart" in chosen.info["warning"]
