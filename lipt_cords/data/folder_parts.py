"""The parts of an image folder: its files found, read, and divided where the folder does not."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from lipt_cords.base.listing import listed, reasons
from lipt_cords.base.randomness import generator
from lipt_cords.data.folder_layout import class_files, inner_folders, part_folders
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.parts import LeftOut, Part, Parts
from lipt_cords.data.split_file import Split, places_of, unnamed
from lipt_cords.data.splits import stratified_split

logger = logging.getLogger(__name__)

DECODE_BYTES = 2 * 2**30
"""Image folders up to this many bytes decoded are kept in memory."""
COPIES = 0.01
"""Share of the test images that may be copies of training images without a word."""
MOST_NAMED = 20
"""Unreadable files that an error names."""


def folder_parts(
    folder: Path,
    image_size: int | None = None,
    *,
    skip_unreadable: bool = False,
    split: Split | None = None,
) -> Parts:
    """Read a folder of images.

    Args:
        folder: as :mod:`lipt_cords.data.folder_layout` understands it.
        image_size: side in pixels to which images are resized and cropped.
        skip_unreadable: leave out files that cannot be read; else they are an error.
        split: paths in the folder by part, in place of its own parts; None: its own. Files that it
            does not name are not read.

    Raises:
        ValueError: a layout that is not clear, classes that do not match, images of several sizes,
            files that cannot be read (all are counted, and up to 20 named), or files of ``split``
            that are not there.
    """
    found, classes, left_out = _found(folder, image_size)
    unused: tuple[str, ...] = ()
    if split is not None:
        found, unused = _divided(found, split, folder)
        left_out = replace(left_out, not_in_split=len(unused))
    size = sum(images.nbytes() for images in found.values())
    if size > DECODE_BYTES and image_size is None:
        raise ValueError(
            f"the images of {folder} take {size / 2**30:.0f} GiB decoded, so they are read one at "
            "a time: set image_size (--set dataset.image_size=N) to give them one size"
        )
    parts: dict[str, Part] = {}
    unreadable: dict[str, str] = {}
    for name, files in found.items():
        names = tuple(_relative(path, folder) for path in files.paths)
        if size <= DECODE_BYTES:
            images, broken = files.decode_all()
            parts[name] = Part(images, names).without(broken)
        else:
            broken = files.unreadable()
            parts[name] = Part(files, names).without(broken)
        unreadable |= {names[index]: broken[index] for index in sorted(broken)}
    if unreadable and not skip_unreadable:
        raise _unreadable(folder, unreadable, sum(map(len, found.values())))
    for name, part in parts.items():
        _refuse_lost(folder, name, found[name], part, classes)
    if "test" not in parts:
        labels = parts["train"].labels
        count = max(1, round(0.1 * len(labels)))
        rest, held = stratified_split(labels, count, generator(0, "folder test"))
        parts = {"train": parts["train"].select(rest), "test": parts["train"].select(held)}
    _warn_of_copies(folder, parts["train"], parts["test"])
    return Parts(
        parts["train"], parts["test"], len(classes), parts.get("val"), tuple(classes), folder,
        replace(left_out, unreadable=unreadable), (*unused, *unreadable),
    )  # fmt: skip


def _found(
    folder: Path, image_size: int | None
) -> tuple[dict[str, FolderImages], list[str], LeftOut]:
    """The files of each part, not yet read; the names of the classes; and what else is there."""
    where = part_folders(folder)
    found: dict[str, FolderImages] = {}
    classes: list[str] = []
    others: list[str] = []
    empty: list[str] = []
    for part, place in where.items():
        files, more = class_files(place)
        without = [name for name in files if not files[name]]
        if part == "train":
            classes = [name for name in files if files[name]]
            _refuse_classes(place, classes, without)
        empty += [_relative(str(place / name), folder) for name in without]
        others += [_relative(path, folder) for path in more]
        for name in files:
            if name not in classes and files[name]:
                remedy = "remove the folder or add training images"
                for one in classes:
                    if one.casefold() == name.casefold():
                        remedy = f"rename it to {one!r}, from which it differs in case alone"
                raise ValueError(
                    f"{place} has a class {name!r} that the training images lack (they have "
                    f"{', '.join(classes)}): {remedy}"
                )
        paths = [path for name in files for path in files[name]]
        if not paths:
            raise ValueError(f"no image in the class folders of {place}: add some or remove it")
        labels = [classes.index(name) for name in files for _ in files[name]]
        found[part] = FolderImages(paths, torch.tensor(labels, dtype=torch.int64), image_size)
    return found, classes, LeftOut(empty=tuple(empty), others=tuple(others))


def _divided(
    found: Mapping[str, FolderImages], split: Split, folder: Path
) -> tuple[dict[str, FolderImages], tuple[str, ...]]:
    """The files of all parts, divided anew, and the names of those in none."""
    paths = [path for files in found.values() for path in files.paths]
    labels = torch.cat([files.labels for files in found.values()])
    images = FolderImages(paths, labels, next(iter(found.values())).image_size)
    names = [_relative(path, folder) for path in paths]
    places = places_of(split, names, str(folder))
    divided = {part: images.select(indices) for part, indices in places.items()}
    return divided, unnamed(split, names)


def _refuse_classes(place: Path, classes: list[str], empty: list[str]) -> None:
    """Refuse fewer than two classes, or some without a training image."""
    if len(classes) < 2:
        raise ValueError(
            f"expected at least two class folders with images in {place}, found {len(classes)}: "
            "put the images of each class into a folder of its own"
            + "".join(f", or give imagefolder:{inner}" for inner in inner_folders(place))
        )
    if empty:
        raise ValueError(
            f"no image in {', '.join(empty[:10])} of {place}: add images to these classes (JPEG, "
            "PNG, TIFF, BMP, WebP, GIF, PPM), or remove the folders"
        )


def _unreadable(folder: Path, unreadable: Mapping[str, str], count: int) -> ValueError:
    return ValueError(
        f"{len(unreadable):,} of {count:,} images in {folder} cannot be read: "
        f"{reasons(unreadable, MOST_NAMED)}. Replace or remove them, or leave them out by "
        "skip_unreadable (--skip-unreadable)"
    )


def _refuse_lost(
    folder: Path, name: str, files: FolderImages, part: Part, classes: list[str]
) -> None:
    """Refuse a class of which no training image can be read, and a part without any."""
    left = set(part.labels.tolist())
    lost = [classes[label] for label in sorted(set(files.labels.tolist()) - left)]
    if lost and (name == "train" or not left):
        raise ValueError(
            f"no image of {listed(lost)} in the {name} part of {folder} can be read: add some, or "
            "remove these folders"
        )


def _warn_of_copies(folder: Path, train: Part, test: Part) -> None:
    sizes = [
        {name: (folder / name).stat().st_size for name in part.names} for part in (train, test)
    ]
    common = set(sizes[0].values()) & set(sizes[1].values())
    trained, tested = (
        [_digest(folder / name) for name, size in some.items() if size in common] for some in sizes
    )
    known = set(trained)
    copies = sum(one in known for one in tested)
    if copies > COPIES * len(test):
        logger.warning(
            "%s of %s test images in %s are copies of training images: remove the copies, as the "
            "test accuracy is too high with them", f"{copies:,}", f"{len(test):,}", folder,
        )  # fmt: skip


def _digest(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes()).digest()


def _relative(path: str, folder: Path) -> str:
    above = "" if folder == Path() else str(folder)  # paths in "." do not begin with it
    return path[len(above) :].lstrip(os.sep).replace(os.sep, "/")
