"""Data sets by name, split the same way every time.

Nothing is downloaded unless it is asked for. The digits that come with scikit-learn are always
there, so everything can be tried offline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import generator
from lipt_cords.base.registry import FOREIGN_NAME, Registry
from lipt_cords.data.batches import dataset_length
from lipt_cords.data.folder_parts import folder_parts
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.parts import LeftOut, Part, Parts
from lipt_cords.data.sample_lists import known_by, read_sample_list
from lipt_cords.data.split_file import Split, places_of, read_split, unnamed
from lipt_cords.data.splits import balanced_sample, stratified_split
from lipt_cords.data.tables.parts import TABLE_PREFIX, table_parts
from lipt_cords.data.tables.rows import TableRows, summary
from lipt_cords.data.torchvision_files import DATA_SETS as TORCHVISION
from lipt_cords.data.torchvision_files import read_torchvision

DATA_VARIABLE = "LIPT_CORDS_DATA"
STATISTICS_IMAGES = 2048
FOLDER_PREFIX = "imagefolder:"

RawImages = tuple[Tensor, Tensor]
"""Images (N, C, H, W), uint8, and their labels (N,)."""
DatasetFunction = Callable[[Path, bool], tuple[RawImages, RawImages]]
DATASETS: Registry[DatasetFunction] = Registry("data set", takes=("directory", "download"))


def register_dataset(name: str) -> Callable[[DatasetFunction], DatasetFunction]:
    """Make a set of images known by a name.

    The function takes the folder of the data and whether it may download, and returns the training
    part and the test part: images (N, C, H, W) as uint8, and labels (N,) from 0 on. The validation
    part and the normalisation are made of the training part.

    Args:
        name: must be free.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    plain = str(name).lower().replace("-", "").replace("_", "")
    if ":" in str(name) or plain in (*(one.replace("-", "") for one in DATASET_NAMES), "fmnist"):
        raise ValueError(
            f"a data set cannot be named {name!r}: the name is one of this package, or holds a "
            "colon; choose another"
        )
    return DATASETS.register(name)


DATASET_NAMES: tuple[str, ...] = ("digits", *TORCHVISION)
"""Names of this package, besides ``imagefolder:DIR``, ``table:FILE`` and registered ones."""
DATASET_LINES: dict[str, str] = {
    "digits": "1,797 digits of 8 x 8 pixels, bundled with scikit-learn.",
    "mnist": "70,000 digits of 28 x 28 pixels.",
    "fashion-mnist": "70,000 pictures of clothes of 28 x 28 pixels.",
    "cifar10": "60,000 colour pictures of 32 x 32 pixels in 10 classes.",
    "cifar100": "60,000 colour pictures of 32 x 32 pixels in 100 classes.",
    "imagefolder:DIR": "A folder of images, one folder a class.",
    "table:FILE": "A CSV or Parquet file, one column the label.",
}
"""What each is, in one line."""


@dataclass(frozen=True)
class DataSplits:
    """A data set in three parts that share one normalisation, measured on the training samples."""

    name: str
    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    """What the classes are called, where the data set says so."""
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    """What the samples of ``train``, ``val`` and ``test`` are called: paths in the image folder,
    numbers of rows in a table, or places in the data set such as ``test/7``."""
    root: Path | None = None
    """The image folder."""
    file: Path | None = None
    """The table."""
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)
    """What of the data is in no part."""
    columns: str = field(default="", compare=False)
    """Which columns of a table are used, and how."""
    known_by: str = field(default="", compare=False)
    """What tells data whose samples have numbers alone from others; empty for an image folder."""

    @property
    def is_table(self) -> bool:
        """Whether samples are rows of a table."""
        return isinstance(self.train, TableRows)

    @property
    def naming(self) -> str:
        """What a column of ``samples`` is called: ``path`` in an image folder, ``row`` in a table,
        else ``sample``."""
        if self.is_table:
            return "row"
        return "sample" if self.root is None else "path"

    def __str__(self) -> str:
        """One line about what became of the data.

        >>> str(load_dataset("digits"))
        '1,797 images: 1,294 for training, 144 for validation, 359 for testing'
        """
        train, val, test = (dataset_length(part) for part in (self.train, self.val, self.test))
        line = (
            f"{train + val + test:,} {'rows' if self.is_table else 'images'}: {train:,} for "
            f"training, {val:,} for validation, {test:,} for testing"
        )
        return "; ".join(filter(None, (line, self.columns, str(self.left_out))))


def canonical_dataset_name(name: str) -> str:
    """The project's name of a data set; CORDS's spellings are understood.

    Raises:
        ValueError: an unknown name; the nearest one is named.

    >>> canonical_dataset_name("FashionMNIST"), canonical_dataset_name("CIFAR10")
    ('fashion-mnist', 'cifar10')
    """
    for prefix in (FOLDER_PREFIX, TABLE_PREFIX):
        if str(name).lower().startswith(prefix):
            return prefix + str(name)[len(prefix) :]
    if name in DATASETS:
        return DATASETS.entry(name).name
    plain = str(name).lower().replace("-", "").replace("_", "")
    known = {known.replace("-", ""): known for known in DATASET_NAMES} | {"fmnist": "fashion-mnist"}
    if plain not in known:
        valid = (*DATASET_NAMES, *DATASETS.names(), "imagefolder:DIR", "table:FILE")
        error, path = unknown_name("data set", name, valid), Path(str(name)).expanduser()
        if path.exists():
            prefix = FOLDER_PREFIX if path.is_dir() else TABLE_PREFIX
            raise ValueError(f"{error} For the path {name} write {prefix}{name}")
        raise ValueError(f"{error} {FOREIGN_NAME}")
    return known[plain]


def data_directory(datadir: str | Path | None = None) -> Path:
    """Where data sets are looked for: the argument, else ``$LIPT_CORDS_DATA``, else ``./data``."""
    return Path(datadir or os.environ.get(DATA_VARIABLE) or "data").expanduser()


def find_data(name: str, datadir: str | Path | None = None) -> Path | None:
    """The folder in which a data set is found, or the file of a table, or None.

    >>> find_data("digits").name
    'data'
    """
    known = canonical_dataset_name(name)
    if known == "digits":
        import sklearn.datasets

        return Path(sklearn.datasets.__file__).parent / "data"
    root = data_directory(datadir)
    if known.startswith(FOLDER_PREFIX):
        folder = Path(known[len(FOLDER_PREFIX) :]).expanduser()
        return next((f for f in (folder, root / folder) if f.is_dir()), None)
    if known.startswith(TABLE_PREFIX):
        file = Path(known[len(TABLE_PREFIX) :]).expanduser()
        return next((f for f in (file, root / file) if f.is_file()), None)
    if known in DATASETS:
        return root
    inside = root / TORCHVISION[known][1]
    return inside if inside.is_dir() and any(inside.iterdir()) else None


def load_dataset(
    name: str,
    datadir: str | Path | None = None,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    download: bool = False,
    limit: int | None = None,
    image_size: int | None = None,
    skip_unreadable: bool = False,
    without: str | Path | None = None,
    split: str | Path | None = None,
    label: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> DataSplits:
    """Load a data set by name, with a seeded stratified validation split.

    The test part never depends on the seed. Small sets are decoded once and held as bytes.

    Args:
        name: ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``,
            ``table:FILE`` (a CSV or Parquet file, of which a fixed tenth is the test part),
            ``imagefolder:DIR``, or a registered name. DIR holds ``train/`` and ``test/`` (and
            maybe ``val/``; with ``val/`` but no ``test/``, that is the test part) of class
            folders, in any case and wording (``Training``, ``test_set``), or class folders
            directly, of which a fixed tenth is then the test part. Hidden files are ignored.
        datadir: folder of the data; None for ``$LIPT_CORDS_DATA`` or ``./data``.
        seed: seed of the validation split and of ``limit``.
        val_fraction: share of the training samples held out for validation, in (0, 1).
        download: fetch a missing set into ``datadir``.
        limit: most training samples to use, classes balanced; None for all.
        image_size: side in pixels to which an image folder is resized; needed if sizes differ.
        skip_unreadable: leave out files of an image folder that cannot be read, and rows of a table
            without a label.
        without: a CSV file whose column ``path``, ``row`` or ``sample`` names samples to leave out
            of training and validation, such as the ``suspects.csv`` of ``lipt-cords clean``. All
            others stay in the part in which they are without it, and so does the whole test part.
        split: the ``split.json`` of a run: its training, validation and test samples, in its
            order. ``val_fraction`` and ``seed`` then divide nothing.
        label: the column of a table that holds the classes; None takes the one called ``label``,
            ``target``, ``class`` or ``y``.
        columns: a use by name for columns of a table that are not to be used as they would be:
            ``number``, ``category`` or ``leave-out``.

    Raises:
        ValueError: an unknown name, missing data (it says where it looked), unreadable images, a
            split that names samples which are not there.

    >>> splits = load_dataset("digits")
    >>> len(splits.train), len(splits.val), len(splits.test), splits.input_shape
    (1294, 144, 359, (1, 8, 8))
    """
    known = canonical_dataset_name(name)
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie in (0, 1), received {val_fraction}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 training image, received {limit}")
    if image_size is not None and not known.startswith(FOLDER_PREFIX):
        raise ValueError(f"image_size is for imagefolder:DIR alone; {known} keeps its own size")
    if skip_unreadable and not known.startswith((FOLDER_PREFIX, TABLE_PREFIX)):
        raise ValueError(
            f"skip_unreadable is for imagefolder:DIR and table:FILE alone, received {known}"
        )
    if (label is not None or columns) and not known.startswith(TABLE_PREFIX):
        raise ValueError(f"label and columns are for table:FILE alone, received {known}")
    given = None if split is None else read_split(split, known)
    if known == "digits":
        parts = _digits()
    elif known.startswith(FOLDER_PREFIX):
        parts = folder_parts(
            _folder(known, datadir), image_size, skip_unreadable=skip_unreadable, split=given
        )
    elif known.startswith(TABLE_PREFIX):
        parts = table_parts(
            _table(known, datadir), label, columns, skip_unreadable=skip_unreadable, split=given
        )
    elif known in DATASETS:
        parts = _registered(known, data_directory(datadir), download)
    else:
        parts = _torchvision(known, data_directory(datadir), download)
    if not known.startswith((FOLDER_PREFIX, TABLE_PREFIX)):
        labels = torch.cat([parts.train.labels, parts.test.labels])
        parts = replace(parts, known_by=known_by(known, labels))
        parts = parts if given is None else _divided(known, parts, given)
    return _split(known, parts, val_fraction, limit, seed, without)


def _divided(name: str, parts: Parts, split: Split) -> Parts:
    """All samples of a data set, divided anew."""
    train, test = parts.train.data, parts.test.data
    if not isinstance(train, ImageTensors) or not isinstance(test, ImageTensors):
        raise TypeError(f"{name} is divided by its files")
    images = ImageTensors(
        torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels]),
        train.mean, train.std,
    )  # fmt: skip
    everything = Part(images, (*parts.train.names, *parts.test.names))
    split.refuse_other_data(parts.known_by)
    places = places_of(split, everything.names, name)
    unused = unnamed(split, everything.names)
    return replace(
        parts,
        unused=unused,
        train=everything.select(places["train"]),
        val=everything.select(places["val"]),
        test=everything.select(places["test"]),
        left_out=replace(parts.left_out, not_in_split=len(unused)),
    )


def _split(
    name: str,
    parts: Parts,
    val_fraction: float,
    limit: int | None,
    seed: int,
    without: str | Path | None,
) -> DataSplits:
    """Hold out the validation part, apply the limit, normalise the parts alike."""
    train, val, labels, left_out = parts.train, parts.val, parts.train.labels, parts.left_out
    kept = torch.arange(len(labels))
    if val is None:
        if len(labels) < 2:
            raise ValueError(
                f"expected at least two training samples in {name}, found {len(labels)}"
            )
        count = min(max(1, round(val_fraction * len(labels))), len(labels) - 1)
        kept, held = stratified_split(labels, count, generator(seed, "validation split"))
        val = train.select(held)
    if isinstance(train.data, TableRows) and len(torch.unique(labels[kept])) < 2:
        raise ValueError(
            f"the {len(kept):,} training rows of {name} are of one class, "
            f"{parts.class_names[int(labels[kept][0])]}: add rows of others, or give dataset.split"
        )
    if isinstance(train.data, TableRows):  # before some are left out, so that nets keep their shape
        train = Part(train.data.measured_on(kept), train.names)
    if without is not None:
        fitted = {*train.names, *val.names}
        everything = {*fitted, *parts.test.names, *parts.unused}
        called = {
            name: parts.class_names[label] if parts.class_names else str(label)
            for part in (train, val)
            for name, label in zip(part.names, part.labels.tolist(), strict=True)
        }
        gone = read_sample_list(without, everything, parts.known_by, called) & fitted
        kept = kept[torch.tensor([train.names[i] not in gone for i in kept.tolist()])]
        val = val.without({i for i, one in enumerate(val.names) if one in gone})
        left_out = replace(left_out, by_list=(Path(without).name, len(gone)))
        for what, some in (("training", kept), ("validation", val)):
            if not len(some):
                raise ValueError(f"no {what} sample is left without those of {without}: shorten it")
    if limit is not None:
        left_out = replace(left_out, over_limit=max(0, len(kept) - limit))
        kept = kept[balanced_sample(labels[kept], limit, generator(seed, "limit"))]
    train = train.select(kept)
    measured = torch.arange(len(train))
    if isinstance(train.data, FolderImages):
        measured = balanced_sample(train.labels, STATISTICS_IMAGES, generator(0, "statistics"))
    mean, std = train.data.statistics(measured)
    named = {"train": train, "val": val, "test": parts.test}
    columns = ""
    if isinstance(train.data, TableRows):
        named = {name: part.encoded_as(train) for name, part in named.items()}
        columns = summary(train.data)
    normalised = {name: part.data.normalised_as(mean, std) for name, part in named.items()}
    return DataSplits(
        name=name,
        **normalised,
        num_classes=parts.num_classes,
        input_shape=tuple(normalised["train"][0][0].shape),
        class_names=parts.class_names,
        samples={name: part.names for name, part in named.items()},
        root=parts.root,
        file=parts.file,
        left_out=left_out,
        columns=columns,
        known_by=parts.known_by,
    )


def _digits() -> Parts:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = torch.from_numpy(bundle.images / 16 * 255).round().to(torch.uint8)[:, None]
    everything = _raw(images, torch.from_numpy(bundle.target), "all")
    count = round(0.2 * len(everything))
    rest, held = stratified_split(everything.labels, count, generator(0, "digits test"))
    return Parts(everything.select(rest), everything.select(held), 10)


def _torchvision(name: str, root: Path, download: bool) -> Parts:
    inside = TORCHVISION[name][1]
    remedy = (
        f"pass --download to fetch it, or --data DIR (or {DATA_VARIABLE}) with the folder that "
        f"holds {inside}"
    )
    old = (root / inside).parent / "processed"
    if not download and find_data(name, root) is None and not old.is_dir():
        raise ValueError(f"{name} was not found in {root} (looked for {root / inside}): {remedy}")
    found, names = read_torchvision(name, root, download, remedy)
    train, test = (_raw(*one, part) for one, part in zip(found, ("train", "test"), strict=True))
    return Parts(train, test, TORCHVISION[name][2], class_names=names)


def _registered(name: str, root: Path, download: bool) -> Parts:
    found: list[Part] = []
    given: Any = DATASETS[name](root, download)
    pairs = isinstance(given, tuple | list) and len(given) == 2
    if not pairs or not all(isinstance(one, tuple | list) and len(one) == 2 for one in given):
        raise ValueError(
            f"data set {name!r} returned a {type(given).__name__}: expected two pairs, "
            "(training images, labels) and (test images, labels)"
        )
    for pair, part in zip(given, ("train", "test"), strict=True):
        images, labels = (torch.as_tensor(value) for value in pair)
        fits = images.dtype == torch.uint8 and images.ndim == 4 and labels.shape == images.shape[:1]
        if not fits or not len(labels) or labels.is_floating_point() or int(labels.min()) < 0:
            raise ValueError(
                f"data set {name!r}, {part} part: expected images (N, C, H, W) as uint8 and labels "
                f"(N,) from 0 on, received {images.dtype} {tuple(images.shape)} and "
                f"{labels.dtype} {tuple(labels.shape)}"
            )
        found.append(_raw(images, labels.long(), part))
    classes = 1 + max(int(one.labels.max()) for one in found)
    return Parts(found[0], found[1], classes)


def _folder(name: str, datadir: str | Path | None) -> Path:
    folder = find_data(name, datadir)
    if folder is None:
        given = name[len(FOLDER_PREFIX) :]
        tried = dict.fromkeys([Path(given), data_directory(datadir) / given])
        if file := next((one for one in tried if one.expanduser().is_file()), None):
            raise ValueError(
                f"{file} is a file: unpack an archive and give its folder as imagefolder:DIR, or "
                f"write table:{given} for a table"
            )
        raise ValueError(
            f"no folder {', nor '.join(map(str, tried))}, seen from {Path.cwd()}: give the path of "
            "a folder of class folders, or of one that holds train/ and test/, as imagefolder:DIR"
        )
    return folder


def _table(name: str, datadir: str | Path | None) -> Path:
    path = find_data(name, datadir)
    if path is None:
        given = name[len(TABLE_PREFIX) :]
        tried = list(dict.fromkeys([Path(given).expanduser(), data_directory(datadir) / given]))
        if folder := next((one for one in tried if one.is_dir()), None):
            raise ValueError(f"{folder} is a folder: give one CSV or Parquet file, as table:FILE")
        raise ValueError(
            f"no file {', nor '.join(map(str, tried))}: give the path of a CSV or Parquet file, as "
            "table:FILE"
        )
    return path


def _raw(images: Tensor, labels: Tensor, part: str) -> Part:
    """Images not yet normalised, each called by its place in a part of the data set."""
    channels = images.shape[1]
    tensors = ImageTensors(images, labels, torch.zeros(channels), torch.ones(channels))
    return Part(tensors, tuple(f"{part}/{index}" for index in range(len(labels))))
