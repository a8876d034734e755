from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lipt_cords.data import folder_parts as module
from lipt_cords.data.datasets import (
    DATA_VARIABLE,
    DATASET_NAMES,
    canonical_dataset_name,
    find_data,
    load_dataset,
)
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.image_files import decoded
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


def test_wrong_idx_files_are_named(tmp_path):
    raw = fake_idx(tmp_path, "MNIST")
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    whole, good = images.read_bytes(), labels.read_bytes()
    for content in (b"", b"<html>404</html>" * 9, whole[:-1], whole + b"x", good):
        images.write_bytes(content)
        with pytest.raises(ValueError, match=f"{images} is no idx file of 3 dimensions"):
            load_dataset("mnist", tmp_path)
    images.write_bytes(whole)
    write_idx(labels, np.arange(59) % 10)
    with pytest.raises(ValueError, match="has 60 images and 59 labels in its train files"):
        load_dataset("mnist", tmp_path)
    write_idx(labels, np.arange(60) % 26)
    with pytest.raises(ValueError, match="go from 0 to 25, but mnist has 10 classes"):
        load_dataset("mnist", tmp_path)


def test_files_of_an_old_torchvision_are_not_read(tmp_path):
    raw = fake_idx(tmp_path, "MNIST")
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(pickle.dumps("old"))
    assert len(load_dataset("mnist", tmp_path).test) == 20, "the idx files beside them are"
    for path in raw.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="processed/test.pt is of an old torchvision .*--download"):
        load_dataset("mnist", tmp_path)


def test_a_changed_file_of_cifar_is_named(tmp_path, monkeypatch):
    fake_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"short")
    with pytest.raises(ValueError, match="cifar10 is not whole .*missing or changed: data_batch_1"):
        load_dataset("cifar10", tmp_path)


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


def test_copies_of_training_images_in_the_test_part_are_told(tmp_path, caplog):
    fake_folder(tmp_path, {"train": 8, "test": 3})
    load_dataset(f"imagefolder:{tmp_path}")
    assert not caplog.text
    for name in ("a/0.jpg", "b/3.png"):
        shutil.copy(tmp_path / "train" / name, tmp_path / "test" / name.replace(".", "-copy."))
    load_dataset(f"imagefolder:{tmp_path}")
    assert "2 of 11 test images" in caplog.text and "are copies of training images" in caplog.text


def test_the_folder_may_be_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(fake_folder(tmp_path, {"": 8}))
    for here in (".", "./", str(tmp_path), f"../{tmp_path.name}"):
        splits = load_dataset(f"imagefolder:{here}")
        names = [name for part in splits.samples.values() for name in part]
        assert sorted(names)[0] == "a/0.jpg" and len(names) == 24, here


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(
        ValueError, match=f"no folder nowhere, nor .*nowhere, seen from {Path.cwd()}"
    ):
        load_dataset("imagefolder:nowhere", tmp_path)
    for path, meant in ((tmp_path, "imagefolder"), (Path(__file__), "table")):
        with pytest.raises(ValueError, match=f"For the path {path} write {meant}:{path}"):
            load_dataset(str(path))
    with pytest.raises(ValueError, match=f"{__file__} is a file: unpack .* write table:{__file__}"):
        load_dataset(f"imagefolder:{__file__}")
    fake_folder(tmp_path, {"train": 2})
    with pytest.raises(ValueError, match=r"has train/ but neither test/ nor val/"):
        load_dataset(f"imagefolder:{tmp_path}")
    fake_folder(tmp_path, {"test": 2}, classes="abd")
    with pytest.raises(ValueError, match="class 'd' that the training images lack"):
        load_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "test/d").rename(tmp_path / "test/C")
    with pytest.raises(ValueError, match="rename it to 'c', from which it differs in case alone"):
        load_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least two class folders .* found 0"):
        load_dataset(f"imagefolder:{tmp_path / 'empty'}")


def test_the_folder_that_an_error_advises_is_read(tmp_path):
    with pytest.raises(ValueError) as missing:
        load_dataset(f"imagefolder:{tmp_path / 'gone'}", tmp_path)
    assert str(missing.value).count("gone") == 1
    fake_folder(tmp_path / "data", {"train": 10})
    for where, advised in (
        (tmp_path, tmp_path / "data"), (tmp_path / "data", tmp_path / "data/train")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"or give imagefolder:{advised}"):
            load_dataset(f"imagefolder:{where}")
    assert load_dataset(f"imagefolder:{advised}").class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("TRAIN", "val"), ("train_set", "TestSet"), ("train2017", "val2017"),
     ("seg_train", "seg_test"), ("trn", "validation"), ("Train Images", "Test Images"),
     ("training", "DEV"), ("Train", "valid"), ("train", "testing")],
)  # fmt: skip
def test_parts_are_recognised_in_any_wording(tmp_path, train, test):
    fake_folder(tmp_path, {train: 4, test: 2})
    splits = load_dataset(f"imagefolder:{tmp_path}")
    assert splits.class_names == ("a", "b", "c")
    assert (len(splits.train) + len(splits.val), len(splits.test)) == (12, 6)


def test_what_only_resembles_a_part_is_a_class(tmp_path):
    classes = ("test_tube", "train_station", "valley")
    draws = np.random.default_rng(0)
    for name in classes:
        (tmp_path / name).mkdir()
        for index in range(10):
            pixels = draws.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    assert load_dataset(f"imagefolder:{tmp_path}").class_names == classes


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"Train": 2, "training": 2, "test": 2}, "two folders for the train part"),
        ({"train": 2, "val": 2, "validation": 2}, "two folders for the val part"),
        ({"test": 2, "val": 2}, "has val/, test/ but no train/|has test/, val/ but no train/"),
        ({"Entrenamiento": 2, "Prueba": 2}, "hold folders of the same names .a, b, c."),
    ],
)
def test_a_layout_of_two_readings_is_refused(tmp_path, parts, message):
    fake_folder(tmp_path, parts)
    with pytest.raises(ValueError, match=message):
        load_dataset(f"imagefolder:{tmp_path}")


def test_hidden_files_and_links_in_a_circle_are_ignored(tmp_path):
    elsewhere = tmp_path / "more"
    elsewhere.mkdir()
    Image.new("RGB", (8, 8)).save(elsewhere / "x.TIFF")
    tmp_path = fake_folder(tmp_path / "photos", {"train": 6, "test": 2})
    hidden = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git")
    for place in (tmp_path, tmp_path / "train", tmp_path / "train" / "a"):
        for name in hidden:
            (place / name).mkdir()
            (place / name / "copy.jpg").write_bytes(b"")
    for name in ("._0.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "train" / "a" / name).write_bytes(b"Mac")
    (tmp_path / "train" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "train" / "b" / "here").symlink_to(tmp_path / "train" / "b")
    (tmp_path / "train" / "self").symlink_to(tmp_path / "train" / "self")
    (tmp_path / "train" / "all").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "c" / "elsewhere").symlink_to(elsewhere)
    (tmp_path / "train" / "a" / "loop.jpg").symlink_to(tmp_path / "train" / "a" / "loop.jpg")
    with pytest.raises(ValueError, match="a/loop.jpg .Too many levels of symbolic links"):
        load_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "train" / "a" / "loop.jpg").unlink()
    splits = load_dataset(f"imagefolder:{tmp_path}")
    assert splits.left_out.others == ("train/self",)
    assert splits.class_names == ("a", "b", "c")
    assert len(splits.train) + len(splits.val) == 19, "a link to another folder is followed"


def test_images_of_sixteen_bits_keep_their_grey(tmp_path):
    grey = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    for kind in ("png", "tiff"):
        Image.fromarray(grey).save(tmp_path / f"x.{kind}")
        image = decoded(str(tmp_path / f"x.{kind}"))
        assert image.shape == (3, 8, 8) and image.dtype == torch.uint8
        assert np.array_equal(image[2].numpy(), grey >> 8)
    for kind in (np.float32, np.int32):
        Image.fromarray(grey.astype(kind)).save(tmp_path / "wide.tiff")
        with pytest.raises(ValueError, match=r"wide.tiff \(pixels of 32 bits"):
            decoded(str(tmp_path / "wide.tiff"))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size, without its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_file_ends_in_another_error(tmp_path_factory, junk, cut):
    path = tmp_path_factory.getbasetemp() / "junk.png"
    buffer = io.BytesIO()
    Image.new("L", (9, 5), 100).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue()[:cut] + junk)
    try:
        assert decoded(str(path)).shape[0] == 3
    except ValueError as error:
        assert "junk.png (" in str(error)


def test_every_unreadable_image_is_named_at_once(tmp_path):
    fake_folder(tmp_path, {"train": 4, "test": 2})
    folder = tmp_path / "train" / "a"
    (folder / "bomb.png").write_bytes(png_of(60_000, 60_000))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "0.jpg").write_bytes((folder / "0.jpg").read_bytes()[:400])
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (tmp_path / "test" / "b" / "1.png").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="bomb.png .too large: .*3600000000 pixels") as caught:
        load_dataset(f"imagefolder:{tmp_path}")
    for name in (
        "5 of 21 images", "a/empty.jpg (empty)", "a/0.jpg (truncated)",
        "a/gone.jpg (No such file or directory)", "b/1.png (not an image", "--skip-unreadable",
    ):  # fmt: skip
        assert name in str(caught.value)
    for path in folder.iterdir():
        path.unlink()
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="no image in a of .*train: add images"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_a_broken_image_is_named(tmp_path):
    fake_folder(tmp_path, {"train": 4, "test": 2})
    broken = tmp_path / "train" / "b" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(ValueError, match="1 of 18 images .*b/2.jpg .truncated"):
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
