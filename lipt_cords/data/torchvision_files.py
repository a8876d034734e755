"""MNIST, Fashion-MNIST and CIFAR from the files that torchvision keeps, each checked before it is
read.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DATA_SETS = {
    "mnist": ("MNIST", "MNIST/raw", 10),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw", 10),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", 10),
    "cifar100": ("CIFAR100", "cifar-100-python", 100),
}
"""Class in torchvision, folder of the files, and number of classes."""
_IDX_BYTES = 8
"""The type code of unsigned bytes in an idx file."""


def read_torchvision(
    name: str, root: Path, download: bool, remedy: str
) -> tuple[list[tuple[Tensor, Tensor]], tuple[str, ...]]:
    """The training part and the test part, and the names of the classes.

    Args:
        name: a key of :data:`DATA_SETS`.
        root: the folder of the data.
        download: fetch a missing set.
        remedy: what to do, for errors.

    Returns:
        Pairs of images (N, C, H, W), uint8, and labels (N,).

    Raises:
        ValueError: files that are missing, damaged or of another data set; they are named.
    """
    from torchvision import datasets

    class_name, inside, num_classes = DATA_SETS[name]
    folder = root / inside
    reader: Any = getattr(datasets, class_name)
    if folder.name == "raw":
        legacy = sorted((folder.parent / "processed").glob("*.pt"))
        if not download and legacy and not any(folder.glob("*-ubyte")):
            raise ValueError(
                f"{legacy[0]} is of an old torchvision and is not read: {remedy}, as the four idx "
                "files"
            )
        # Torchvision would read these files in place of the idx files beside them.
        reader = type(class_name, (reader,), {"_check_legacy_exist": lambda self: False})
        if not download:
            _check_idx(folder, name, remedy)
    parts: list[tuple[Tensor, Tensor]] = []
    names: tuple[str, ...] = ()
    for train in (True, False):
        try:
            part = reader(str(root), train=train, download=download)
            images, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets)
        except Exception as error:  # a damaged file makes unpickling raise almost anything
            what = "could not be downloaded to" if download else "is not whole in"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            damaged = [] if download else _damaged(reader, folder)
            which = f"; missing or changed: {', '.join(damaged)}" if damaged else ""
            raise ValueError(f"{name} {what} {folder} ({reason}{which}): {remedy}") from error
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"the labels in {folder} go from {int(labels.min())} to {int(labels.max())}, but "
                f"{name} has {num_classes} classes: these are files of another data set; {remedy}"
            )
        parts.append((images, labels))
        names = tuple(map(str, getattr(part, "classes", ())))
    return parts, names


def _check_idx(folder: Path, name: str, remedy: str) -> None:
    """Check the headers of the four idx files against their sizes and each other."""
    for part in ("train", "t10k"):
        counts = []
        for what, dims in (("images-idx3", 3), ("labels-idx1", 1)):
            path = folder / f"{part}-{what}-ubyte"
            if not path.is_file():
                raise ValueError(f"{name} is not whole in {folder} (no {path.name}): {remedy}")
            shape = _idx_shape(path, dims)
            if shape is None:
                raise ValueError(
                    f"{path} is no idx file of {dims} dimension{'s' * (dims > 1)} of bytes, or not "
                    f"whole: {remedy}"
                )
            counts.append(shape[0])
        if counts[0] != counts[1]:
            raise ValueError(
                f"{folder} has {counts[0]} images and {counts[1]} labels in its {part} files: they "
                f"are of different data sets; {remedy}"
            )


def _idx_shape(path: Path, dims: int) -> tuple[int, ...] | None:
    """The shape that the header of an idx file of bytes gives, or None if the file differs."""
    with path.open("rb") as file:
        head = file.read(4 + 4 * dims)
    if len(head) < 4 + 4 * dims or head[:4] != bytes((0, 0, _IDX_BYTES, dims)):
        return None
    shape = struct.unpack(f">{dims}I", head[4:])
    return shape if path.stat().st_size == len(head) + math.prod(shape) else None


def _damaged(reader: Any, folder: Path) -> list[str]:
    """Names of the files of a CIFAR set that are missing or have another checksum."""
    from torchvision.datasets.utils import check_integrity

    listed = [*getattr(reader, "train_list", ()), *getattr(reader, "test_list", ())]
    return [name for name, md5 in listed if not check_integrity(str(folder / name), md5)]
