"""A data set as it was found: parts that are not yet normalised, and the names of its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import torch
from torch import Tensor

from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors

Images = ImageTensors | FolderImages
NAMED = 5
"""Files that a line names."""


@dataclass(frozen=True)
class Part:
    """Images and what each is called: a path in the image folder, or a place such as ``test/7``."""

    images: Images
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> Tensor:
        """Classes, shape (N,)."""
        return self.images.labels

    def select(self, indices: Tensor) -> Part:
        """Some of the samples, in the order given."""
        return Part(self.images.select(indices), tuple(self.names[i] for i in indices.tolist()))

    def without(self, positions: Collection[int]) -> Part:
        """All samples but some."""
        if not positions:
            return self
        kept = [index for index in range(len(self)) if index not in positions]
        return self.select(torch.tensor(kept, dtype=torch.int64))


@dataclass(frozen=True)
class LeftOut:
    """What of a data set is in no part."""

    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why files could not be read, by their names."""
    empty: tuple[str, ...] = ()
    """Folders without an image."""
    others: tuple[str, ...] = ()
    """Files that are no images, or in no class folder."""
    by_list: tuple[str, int] | None = None
    """A file that lists samples to leave out, and how many of them were."""
    not_in_split: int = 0
    """Samples that the given split does not name."""
    over_limit: int = 0
    """Training images beyond ``limit``."""

    def notes(self) -> list[str]:
        """What a reader of results must know."""
        said = []
        if self.unreadable:
            said.append(f"{len(self.unreadable):,} unreadable left out: {reasons(self.unreadable)}")
        if self.by_list:
            name, count = self.by_list
            said.append(f"{count:,} left out by {name}")
        return said

    def __str__(self) -> str:
        said = self.notes()
        if self.others:
            endings = Counter(PurePath(name).suffix.lower() or "no ending" for name in self.others)
            shown = listed([ending for ending, _ in endings.most_common()])
            what = "1 other file" if len(self.others) == 1 else f"{len(self.others):,} other files"
            said.append(f"{what} left out ({shown})")
        if self.not_in_split:
            said.append(f"{self.not_in_split:,} not in the split")
        if self.over_limit:
            said.append(f"{self.over_limit:,} beyond the limit")
        if self.empty:
            said.append(f"no image in {listed(self.empty)}")
        return "; ".join(said)


@dataclass(frozen=True)
class Parts:
    """A data set as it was found, not yet normalised."""

    train: Part
    test: Part
    num_classes: int
    val: Part | None = None
    class_names: tuple[str, ...] = ()
    root: Path | None = None
    """The image folder to which the samples' names are relative."""
    left_out: LeftOut = field(default_factory=LeftOut)
    unused: tuple[str, ...] = ()
    """Samples of the data set that are in no part."""


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """The first few of some names.

    >>> listed(["a", "b"]), listed(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reasons(unreadable: Mapping[str, str], most: int = NAMED) -> str:
    """The first few of some files with why they cannot be read.

    >>> reasons({"a.jpg": "truncated"})
    'a.jpg (truncated)'
    """
    return listed([f"{name} ({why})" for name, why in unreadable.items()], most)
