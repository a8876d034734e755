"""Data that were replaced are noticed; data that only moved are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from lipt_cords.cords.config import RunConfig
from lipt_cords.data import folder_parts as module
from lipt_cords.data.contents import contents_of
from lipt_cords.data.datasets import load_dataset
from lipt_cords.data.folder_layout import image_files
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.experiments.compare import compare
from lipt_cords.experiments.run import run
from lipt_cords.training.subset import train_on_subset
from lipt_cords.warmstart.warm_start import LiPTWarmStart


def photos(root: Path) -> Path:
    draws = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(0, 255, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def replace(root: Path, name: str = "train/cat/3.png") -> None:
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / name)


@pytest.mark.parametrize("in_memory", [True, False])
def test_one_replaced_image_is_noticed_wherever_the_folder_lies(tmp_path, monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr(module, "DECODE_BYTES", 100)
    root = photos(tmp_path / "here")
    moved = Path(shutil.copytree(root, tmp_path / "there"))

    def contents(folder: Path) -> str | None:
        return contents_of(load_dataset(f"imagefolder:{folder}", image_size=8).test)

    assert contents(root) == contents(moved) is not None
    replace(moved, "test/cat/3.png")
    assert contents(root) != contents(moved)


def test_names_that_are_no_text_have_a_digest(tmp_path):
    root = photos(tmp_path / "photos")
    image = root / "train" / "cat" / "3.png"
    try:
        image.rename(os.fsdecode(os.fsencode(image.parent) + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("the file system takes no such names")
    paths = image_files(root / "train")
    assert contents_of(FolderImages(paths, torch.zeros(len(paths)).long())) is not None


def test_items_that_draw_at_random_without_end_have_no_digest():
    class Drawing(TensorDataset):
        count = 0

        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            self.count += 1
            return torch.full((2,), float(self.count)), torch.tensor(0)

    assert contents_of(Drawing(torch.ones(3, 2))) is None


def configuration(root: Path) -> RunConfig:
    return RunConfig.parse(
        {
            "dataset": {"name": f"imagefolder:{root}"},
            "model": {"architecture": "cnn"},
            "dss_args": {"type": "Random", "fraction": 0.5, "selector": "fast"},
            "train_args": {"num_epochs": 1, "device": "cpu"},
            "ckpt": {"is_save": True, "save_every": 1},
        }
    )


def test_resuming_a_run_on_replaced_images_is_refused(tmp_path):
    root = photos(tmp_path / "photos")
    run(configuration(root), output=tmp_path / "out")
    replace(root)
    with pytest.raises(ValueError, match="data.contents of the (training|validation) data is"):
        run(configuration(root), output=tmp_path / "out", resume=True)


def test_resuming_a_comparison_on_replaced_images_is_refused(tmp_path):
    root = photos(tmp_path / "photos")
    options = {"methods": ["random"], "seeds": [0], "output": tmp_path / "out"}
    compare(configuration(root), **options)
    (kept,) = compare(configuration(root), **options, resume=True)["runs"]
    assert kept["status"] == "ok"
    replace(root, "test/dog/0.png")
    with pytest.raises(ValueError, match="another comparison: data.contents of the test data is"):
        compare(configuration(root), **options, resume=True)


def test_resuming_a_training_on_other_samples_is_refused(tmp_path):
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    options = {"epochs": 1, "checkpoint_dir": tmp_path, "device": "cpu"}
    train_on_subset(nn.Linear(3, 2), TensorDataset(x, y), range(8), **options)
    train_on_subset(nn.Linear(3, 2), TensorDataset(x, y), range(8), resume=True, **options)
    with pytest.raises(ValueError, match="contents of the chosen data"):
        train_on_subset(nn.Linear(3, 2), TensorDataset(x + 1, y), range(8), resume=True, **options)


def test_a_work_dir_is_not_continued_with_one_image_replaced(tmp_path):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (100, 1, 4, 4), dtype=torch.uint8, generator=draws)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    warm_start = LiPTWarmStart(
        num_workers=2, epochs=1, common_steps=1, threads=1, launch="serial", work_dir=tmp_path
    )

    def data(images: torch.Tensor) -> ImageTensors:
        return ImageTensors(images, torch.arange(100) % 2, torch.zeros(1), torch.ones(1))

    warm_start.fit(net, data(images))
    warm_start.fit(net, data(images.clone()))
    images[1] = 7
    with pytest.raises(ValueError, match="another run .contents of the training images is"):
        warm_start.fit(net, data(images))
