"""How a folder of images is laid out: its parts, its classes, and the files of each.

Folders come as notebooks, operating systems and Kaggle leave them. What is hidden is ignored, parts
are recognised by their names in any case and common wording, and a layout that could be read in two
ways is refused.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm",
     ".tif", ".tiff")
)  # fmt: skip
HIDDEN = frozenset(
    ("__macosx", "@eadir", "lost+found", "$recycle.bin", "__pycache__", "thumbs.db", "desktop.ini")
)
"""Files and folders that systems leave, beside those that begin with a dot."""
_PARTS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val",
    "dev": "val", "development": "val",
    "test": "test", "testing": "test", "tst": "test", "tests": "test",
}  # fmt: skip
_FILLERS = ("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "split", "folder")


def part_folders(folder: Path) -> dict[str, Path]:
    """Where the parts of an image folder are: ``train``, ``test`` and ``val`` as far as they exist.

    Names count in any case and wording: ``Training``, ``test_set``, ``validation``, ``val2017``;
    longer ones, such as ``seg_train``, where the folder holds class folders. Without a training
    part the folder itself holds the classes. With ``val/`` but no ``test/``, as ImageNet has it,
    ``val/`` is the test part.

    Raises:
        ValueError: a training part without either, one of them without a training part, two folders
            for one part, images in other folders beside parts, or a layout that may be parts under
            other names.
    """
    named: dict[str, list[str]] = {}
    others = []
    for name in _folders(folder):
        part, sure = _part_of(name)
        if part is not None and (sure or _holds_folders_only(folder / name)):
            named.setdefault(part, []).append(name)
        else:
            others.append(name)
    for part, names in named.items():
        if len(names) > 1:
            raise ValueError(
                f"{folder} has {' and '.join(one + '/' for one in names)}, two folders for the "
                f"{part} part: merge them, or move one away"
            )
    parts = {part: folder / names[0] for part, names in named.items()}
    if "train" not in parts:
        if parts:
            found = ", ".join(f"{path.name}/" for path in parts.values())
            raise ValueError(
                f"{folder} has {found} but no train/: add the training part, or give a class "
                "another name"
            )
        _refuse_other_parts(folder)
        return {"train": folder}
    if mixed := [f"{name}/" for name in others if image_files(folder / name)]:
        more = f" and {len(mixed) - 5} more" if len(mixed) > 5 else ""
        raise ValueError(
            f"{folder} has {', '.join(f'{path.name}/' for path in parts.values())} and beside them "
            f"images in {', '.join(mixed[:5])}{more}, which may be classes: move them into the "
            "parts, or out of this folder"
        )
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    if "test" not in parts:
        raise ValueError(
            f"{folder} has {parts['train'].name}/ but neither test/ nor val/: add a test/ folder, "
            f"or give imagefolder:{parts['train']} to have its images split"
        )
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def class_folders(folder: Path) -> list[str]:
    """Names of the folders inside ``folder`` that hold images, sorted: the classes."""
    return [name for name in _folders(folder) if image_files(folder / name)]


def class_files(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The images of each folder inside ``folder``, empty ones included, and all other files.

    Returns:
        Sorted paths of images by the sorted names of the folders; and the visible files that are
        not among them: of another kind, or beside the folders.

    Raises:
        ValueError: a folder that cannot be read; it is named.
    """
    images: dict[str, list[str]] = {}
    others = [entry.path for entry in _visible(str(folder)) if not _is_folder(entry)]
    for name in _folders(folder):
        found = _files(folder / name)
        images[name] = [path for path in found if is_image(path)]
        others += [path for path in found if not is_image(path)]
    return images, others


def image_files(folder: Path) -> list[str]:
    """Paths of the images in a folder and below it, sorted.

    Hidden files and links to a folder above are left out.

    Raises:
        ValueError: a folder that cannot be read; it is named.
    """
    return [path for path in _files(folder) if is_image(path)]


def is_image(path: str) -> bool:
    """Whether a file's name ends as that of an image."""
    return os.path.splitext(path)[1].lower() in EXTENSIONS  # noqa: PTH122


def _files(folder: Path) -> list[str]:
    above = frozenset((os.path.realpath(folder), *map(str, Path(folder).resolve().parents)))
    return sorted(_files_below(str(folder), above))


def _files_below(folder: str, above: frozenset[str]) -> list[str]:
    found = []
    for entry in _visible(folder):
        if _is_folder(entry):
            place = os.path.realpath(entry.path)
            if place not in above:
                found += _files_below(entry.path, above | {place})
        else:
            found.append(entry.path)
    return found


def inner_folders(folder: Path) -> list[Path]:
    """The only folder in a folder, as an archive may leave one, if it holds folders itself."""
    names = _folders(folder)
    inner = folder / names[0] if len(names) == 1 else None
    return [inner] if inner is not None and _folders(inner) else []


def _folders(folder: Path) -> list[str]:
    """Names of the visible folders in one, sorted, without links to itself or above."""
    above = {os.path.realpath(folder), *map(str, Path(folder).resolve().parents)}
    return sorted(
        entry.name
        for entry in _visible(str(folder))
        if _is_folder(entry) and os.path.realpath(entry.path) not in above
    )


def _visible(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in HIDDEN
            ]
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be read ({error.strerror}): change its permissions or remove it"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _part_of(name: str) -> tuple[str | None, bool]:
    """The part that a name stands for, and whether it says nothing else.

    >>> _part_of("Training_Set"), _part_of("seg_train"), _part_of("cat")
    (('train', True), ('train', False), (None, False))
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[a-z]+", spaced.lower())
    words = [re.sub(rf"(?<=.)({'|'.join(_FILLERS)})$", "", word) for word in words]
    words = [word for word in words if word not in _FILLERS]
    known = [_PARTS[word] for word in words if word in _PARTS]
    if not known:
        return None, False
    return known[0], len(words) == 1


def _holds_folders_only(folder: Path) -> bool:
    """Whether a folder holds at least two folders with images, and no image of its own."""
    return not _own_images(folder) and len(class_folders(folder)) >= 2


def _own_images(folder: Path) -> bool:
    return any(is_image(entry.name) for entry in _visible(str(folder)))


def _refuse_other_parts(folder: Path) -> None:
    """Refuse folders that all hold folders of the same names: these are the classes."""
    outer = class_folders(folder)
    if len(outer) < 2 or any(_own_images(folder / name) for name in outer):
        return
    inner = set.intersection(*(set(class_folders(folder / name)) for name in outer))
    if len(inner) >= 2:
        shown = ", ".join(sorted(inner)[:3])
        raise ValueError(
            f"{', '.join(outer[:5])} in {folder} all hold folders of the same names ({shown}), so "
            "they look like parts, not like classes: call them train, val and test, or merge them"
        )
