from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lipt_cords.data import datasets as module
from lipt_cords.data.datasets import (
    DATA_VARIABLE,
    DATASET_NAMES,
    canonical_dataset_name,
    find_data,
    load_dataset,
)
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.source import BatchSource


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def fake_idx(root: Path, name: str, train: int = 60, test: int = 20) -> Path:
    raw = root / name / "raw"
    draws = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        images = draws.integers(0, 256, (count, 28, 28))
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    return raw


def fake_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    draws = np.random.default_rng(0)

    def write(name: str, content: object) -> tuple[str, str]:
        payload = pickle.dumps(content)
        (folder / name).write_bytes(payload)
        return name, hashlib.md5(payload).hexdigest()

    def batch(count: int) -> dict[str, object]:
        data = draws.integers(0, 256, (count, 3072)).astype(np.uint8)
        return {"data": data, "labels": [i % 10 for i in range(count)]}

    reader = torchvision.datasets.CIFAR10
    monkeypatch.setattr(reader, "train_list", [write("data_batch_1", batch(40))])
    monkeypatch.setattr(reader, "test_list", [write("test_batch", batch(10))])
    name, md5 = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(reader, "meta", {"filename": name, "key": "label_names", "md5": md5})


def fake_folder(root: Path, parts: dict[str, int], side: int = 8, classes: str = "abc") -> Path:
    draws = np.random.default_rng(0)
    for part, count in parts.items():
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(0, 60, (side, side, 3)).astype(np.uint8) + 60 * label
                kind = "png" if index % 2 else "jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.{kind}")
    return root


def test_digits_are_always_there():
    splits = load_dataset("digits")
    assert splits.num_classes == 10 and splits.input_shape == (1, 8, 8)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    assert len(splits.test) == 359
    for part in (splits.train, splits.val, splits.test):
        counts = torch.bincount(part.labels, minlength=10)
        assert counts.max() - counts.min() <= 0.15 * counts.max() + 1
    assert torch.equal(splits.train.mean, splits.test.mean)
    images, _ = splits.train.gather(torch.arange(len(splits.train)))
    assert abs(images.mean()) < 1e-4 and abs(images.std() - 1) < 1e-3


def test_the_seed_moves_validation_but_never_test():
    one, two, again = (load_dataset("digits", seed=seed) for seed in (0, 1, 0))
    assert torch.equal(one.test.images, two.test.images)
    assert not torch.equal(one.val.images, two.val.images)
    assert torch.equal(one.val.images, again.val.images)
    assert torch.equal(one.train.images, again.train.images)


def test_limit_balances_the_classes():
    splits = load_dataset("digits", limit=55)
    counts = torch.bincount(splits.train.labels, minlength=10)
    assert len(splits.train) == 55 and counts.max() - counts.min() == 1
    assert len(splits.val) == 144
    assert len(load_dataset("digits", limit=10**6).train) == 1294


@pytest.mark.parametrize("spelling", ["fashion-mnist", "FashionMNIST", "fmnist"])
def test_fashion_mnist_from_idx_files(tmp_path, spelling):
    raw = fake_idx(tmp_path, "FashionMNIST")
    assert find_data(spelling, tmp_path) == raw
    splits = load_dataset(spelling, tmp_path, val_fraction=1 / 6)
    assert splits.name == "fashion-mnist" and splits.input_shape == (1, 28, 28)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (50, 10, 20)
    assert torch.bincount(splits.val.labels).tolist() == [1] * 10
    assert isinstance(splits.train, ImageTensors) and BatchSource(splits.train).resident


def test_the_data_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    fake_idx(tmp_path, "MNIST")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert load_dataset("MNIST").num_classes == 10
    monkeypatch.delenv(DATA_VARIABLE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tmp_path)
    assert find_data("mnist") == Path("data/MNIST/raw")


def test_cifar10_keeps_channels_first(tmp_path, monkeypatch):
    fake_cifar10(tmp_path, monkeypatch)
    splits = load_dataset("CIFAR10", tmp_path)
    assert splits.input_shape == (3, 32, 32)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 10)
    original = torchvision.datasets.CIFAR10(str(tmp_path), train=False)
    assert torch.equal(splits.test.images[3].permute(1, 2, 0), torch.from_numpy(original.data[3]))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path, name):
    assert find_data(name, tmp_path) is None
    with pytest.raises(ValueError, match="not found") as caught:
        load_dataset(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "--download" in message and "--data DIR" in message and DATA_VARIABLE in message


def test_damaged_data_is_named(tmp_path):
    raw = fake_idx(tmp_path, "FashionMNIST")
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="fashion-mnist is not whole in .*FashionMNIST/raw"):
        load_dataset("fashion-mnist", tmp_path)


def test_a_failed_download_is_a_clear_error(tmp_path, monkeypatch):
    def offline(self):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", offline)
    with pytest.raises(ValueError, match="could not be downloaded .*no network"):
        load_dataset("fashion-mnist", tmp_path, download=True)


def test_image_folder_with_train_and_test(tmp_path):
    fake_folder(tmp_path, {"train": 10, "test": 4})
    name = f"imagefolder:{tmp_path}"
    assert find_data(name) == tmp_path
    splits = load_dataset(name)
    assert splits.num_classes == 3 and splits.input_shape == (3, 8, 8)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (27, 3, 12)
    stored = splits.test
    pixels = np.asarray(Image.open(tmp_path / "test" / "a" / "1.png"))
    assert stored.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(stored.images[1].permute(1, 2, 0), torch.tensor(pixels))


def test_image_folder_with_its_own_validation_part(tmp_path):
    fake_folder(tmp_path, {"train": 6, "val": 2, "test": 3})
    splits = load_dataset(f"imagefolder:{tmp_path}")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (18, 6, 9)


def test_val_without_test_is_the_test_part(tmp_path):
    fake_folder(tmp_path, {"train": 10, "val": 2})
    splits = load_dataset(f"imagefolder:{tmp_path}")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (27, 3, 6)


def test_class_folders_alone_are_split(tmp_path):
    fake_folder(tmp_path / "pets", {".": 20})
    splits = load_dataset("imagefolder:pets", tmp_path, seed=4)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (49, 5, 6)
    assert torch.bincount(splits.test.labels).tolist() == [2, 2, 2]
    other = load_dataset("imagefolder:pets", tmp_path, seed=5)
    assert torch.equal(splits.test.images, other.test.images)


def test_image_size_makes_sizes_equal(tmp_path):
    fake_folder(tmp_path, {"train": 4, "test": 2})
    Image.new("RGB", (20, 12)).save(tmp_path / "train" / "b" / "wide.png")
    with pytest.raises(ValueError, match="images differ in size: .*set image_size"):
        load_dataset(f"imagefolder:{tmp_path}")
    splits = load_dataset(f"imagefolder:{tmp_path}", image_size=6)
    assert splits.input_shape == (3, 6, 6)


def test_a_large_folder_is_read_one_image_at_a_time(tmp_path, monkeypatch):
    fake_folder(tmp_path, {"train": 10, "test": 4})
    kept = load_dataset(f"imagefolder:{tmp_path}", image_size=8)
    monkeypatch.setattr(module, "DECODE_BYTES", 100)  # in place of a folder of two GiB
    with pytest.raises(ValueError, match="read one at a time: set image_size"):
        load_dataset(f"imagefolder:{tmp_path}")
    splits = load_dataset(f"imagefolder:{tmp_path}", image_size=8, limit=20)
    assert isinstance(splits.train, FolderImages) and len(splits.train) == 20
    streamed = load_dataset(f"imagefolder:{tmp_path}", image_size=8)
    torch.testing.assert_close(streamed.test[5][0], kept.test[5][0])
    assert streamed.test[5][1] == kept.test[5][1]
    source = BatchSource(streamed.test, cache_bytes=0)
    assert source.labels.tolist() == kept.test.labels.tolist()


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="no folder nowhere, nor .*nowhere"):
        load_dataset("imagefolder:nowhere", tmp_path)
    fake_folder(tmp_path, {"train": 2})
    with pytest.raises(ValueError, match=r"has train/ but neither test/ nor val/"):
        load_dataset(f"imagefolder:{tmp_path}")
    fake_folder(tmp_path, {"test": 2}, classes="abd")
    with pytest.raises(ValueError, match="class 'd' that the training images lack"):
        load_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least two class folders .* found 0"):
        load_dataset(f"imagefolder:{tmp_path / 'empty'}")


def test_a_broken_image_is_named(tmp_path):
    fake_folder(tmp_path, {"train": 4, "test": 2})
    broken = tmp_path / "train" / "b" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(ValueError, match="2.jpg is not a whole image"):
        load_dataset(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifr10"}, "unknown data set 'cifr10'.*Did you mean 'cifar10'"),
        ({"name": "digits", "val_fraction": 0.0}, r"val_fraction must lie in \(0, 1\)"),
        ({"name": "digits", "limit": 0}, "limit must be at least 1"),
        ({"name": "digits", "image_size": 16}, "image_size is for imagefolder"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**options)


def test_names_are_their_own_spelling():
    assert all(canonical_dataset_name(name) == name for name in DATASET_NAMES)
    assert canonical_dataset_name("ImageFolder:Some/Dir") == "imagefolder:Some/Dir"
