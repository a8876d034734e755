"""A data set as it was found: parts that are not yet normalised, and the names of its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import torch
from torch import Tensor

from lipt_cords.base.listing import listed, reasons
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.tables.rows import TableRows

Samples = ImageTensors | FolderImages | TableRows
MOST_COLUMNS = 20
"""Columns that a line names."""


@dataclass(frozen=True)
class Part:
    """Samples and what each is called: a path in the image folder, the number of a row in a table,
    or a place such as ``test/7``."""

    data: Samples
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> Tensor:
        """Classes, shape (N,)."""
        return self.data.labels

    def select(self, indices: Tensor) -> Part:
        """Some of the samples, in the order given."""
        return Part(self.data.select(indices), tuple(self.names[i] for i in indices.tolist()))

    def without(self, positions: Collection[int]) -> Part:
        """All samples but some."""
        if not positions:
            return self
        kept = [index for index in range(len(self)) if index not in positions]
        return self.select(torch.tensor(kept, dtype=torch.int64))

    def encoded_as(self, other: Part) -> Part:
        """The same samples; rows of a table become inputs as those of another part do."""
        if not isinstance(self.data, TableRows) or not isinstance(other.data, TableRows):
            return self
        return Part(self.data.encoded_as(other.data.encoding), self.names)


@dataclass(frozen=True)
class LeftOut:
    """What of a data set is in no part."""

    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why files, or rows of a table, could not be read, by their names."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Why columns of a table are not used, by their names."""
    empty: tuple[str, ...] = ()
    """Folders without an image."""
    others: tuple[str, ...] = ()
    """Files that are no images, or in no class folder."""
    by_list: tuple[str, int] | None = None
    """A file that lists samples to leave out, and how many of them were."""
    not_in_split: int = 0
    """Samples that the given split does not name."""
    over_limit: int = 0
    """Training samples beyond ``limit``."""

    def notes(self) -> list[str]:
        """What a reader of results must know."""
        said = []
        if self.unreadable:
            said.append(f"{len(self.unreadable):,} unreadable left out: {reasons(self.unreadable)}")
        if self.by_list:
            name, count = self.by_list
            said.append(f"{count:,} left out by {name}")
        if self.columns:
            one = len(self.columns) == 1
            what = "1 column" if one else f"{len(self.columns)} columns"
            said.append(f"{what} left out: {reasons(self.columns, MOST_COLUMNS)}")
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
    known_by: str = ""
    """What tells data whose samples have numbers alone from others
    (:func:`~lipt_cords.data.sample_lists.known_by`,
    :func:`~lipt_cords.data.tables.identity.known_by_values`)."""
    file: Path | None = None
    """The table in which the samples are rows."""
