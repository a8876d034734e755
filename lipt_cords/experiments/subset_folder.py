"""An image folder of the chosen samples alone: copies of their files, or links to them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from lipt_cords.base.files import PREFIX, SUFFIX
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import FOLDER_PREFIX, DataSplits, canonical_dataset_name, find_data


def check_subset_folder(target: Path, config: RunConfig, output: Path | None) -> None:
    """Refuse a folder in which no subset can be laid, before anything is computed.

    Args:
        target: the folder to be made.
        config: its data.
        output: directory of the selection's other files.

    Raises:
        ValueError: the data are no image folder; ``target`` is a file, holds something, is the
            output, or lies in the image folder or above it.
    """
    name = canonical_dataset_name(config.dataset.name)
    if not name.startswith(FOLDER_PREFIX):
        raise ValueError(
            f"--copy and --link take image files or rows of a table, and {name} has none: take the "
            "samples from selected.csv, or give imagefolder:DIR or table:FILE"
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"expected a new folder at {target}, found a file: choose another name")
    place = target.resolve()
    if output is not None and place == output.resolve():
        raise ValueError(f"{target} is --output: choose another folder for the subset")
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty: choose another folder for the subset")
    found = find_data(name, config.dataset.datadir)
    root = None if found is None else found.resolve()
    if root is not None and (place == root or root in place.parents or place in root.parents):
        raise ValueError(
            f"{target} lies in the image folder {found} or above it, which would change the data: "
            "choose a folder elsewhere"
        )


def make_subset_folder(
    target: Path, splits: DataSplits, indices: Sequence[int], *, link: bool = False
) -> Path:
    """Lay some training images into a folder for each class, whole or not at all.

    Args:
        target: the folder; :func:`check_subset_folder` has accepted it.
        splits: an image folder.
        indices: of the training images.
        link: symbolic links to the files in place of copies.

    Raises:
        OSError: a file that cannot be read, or written; nothing is left then.
    """
    if splits.root is None:
        raise ValueError(f"{splits.name} is no image folder, so its samples are no files")
    labels = splits.train.labels[list(indices)].tolist()  # type: ignore[attr-defined]
    names = [splits.samples["train"][index] for index in indices]
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that the last step is one rename.
    made = target.parent / f"{PREFIX}{target.name}.{secrets.token_hex(4)}{SUFFIX}"
    try:
        made.mkdir()
        for name, label in zip(names, labels, strict=True):
            place = made / _inside(name, splits.class_names[label])
            if place.exists():  # files of one name from two parts
                place = place.parent / name.replace("/", "_")
            place.parent.mkdir(parents=True, exist_ok=True)
            source = splits.root / name
            if link:
                place.symlink_to(source.resolve())
            else:
                shutil.copy2(source, place)
        if target.is_dir():  # an empty one, which not every system renames over
            target.rmdir()
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return target


def _inside(name: str, class_name: str) -> str:
    """Where a file of an image folder lies in a folder of classes.

    >>> _inside("train/cat/old/1.jpg", "cat"), _inside("cat/1.jpg", "cat")
    ('cat/old/1.jpg', 'cat/1.jpg')
    """
    first, rest = name.split("/", 1)
    return name if first == class_name else rest
