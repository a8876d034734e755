"""Which sample is in which part, as a file: ``split.json`` of one run, given to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipt_cords.base.files import read_json
from lipt_cords.base.listing import listed
from lipt_cords.data.sample_lists import values_changed

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Names of the samples of each part, in order, and what is known of their data."""

    parts: Mapping[str, Sequence[str]]
    known_by: str = ""
    """What tells the data from others (:func:`~lipt_cords.data.sample_lists.known_by`)."""

    def refuse_other_data(self, known_by: str) -> None:
        """Refuse data that are not those of the split.

        Args:
            known_by: of the data; empty where names of files tell.

        Raises:
            ValueError: both are known and differ.
        """
        if self.known_by and known_by and self.known_by != known_by:
            raise ValueError(
                f"dataset.split is of {self.known_by}, and these data are {known_by}: give the "
                "split of these data, or leave it out"
                + values_changed(self.known_by, known_by, "'known_by'")
            )


def read_split(path: str | Path, dataset: str) -> Split:
    """Read a split.

    Args:
        path: JSON with the lists ``train``, ``val`` and ``test`` of sample names, and maybe the
            name of its ``dataset`` and what it is ``known_by``; other entries are not read.
        dataset: that is to be divided. Image folders may have moved: their files are compared.

    Raises:
        ValueError: the file cannot be read, is of another data set, a list is missing, empty or
            holds something else, or a sample is named twice.
    """
    path = Path(path).expanduser()
    payload: dict[str, Any] = read_json(path, remedy="give the split.json of a run")
    of = payload.get("dataset", dataset)
    if of != dataset and ":" not in dataset:
        raise ValueError(
            f"{path} is the split of {of}, and the data are {dataset}: give the split of these "
            "data, or leave dataset.split out"
        )
    for part in PARTS:
        names = payload.get(part)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"{path} has no list of names at {part!r}: expected the split.json of a run, or "
                "{'train': [...], 'val': [...], 'test': [...]}"
            )
        if not names:
            raise ValueError(f"{path} names no sample for {part!r}: every part needs some")
    counts = Counter(name for part in PARTS for name in payload[part])
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{path} names samples twice: {listed(twice)}. Keep each in one part")
    known_by = payload.get("known_by")
    named = {part: payload[part] for part in PARTS}
    return Split(named, known_by if isinstance(known_by, str) else "")


def unnamed(split: Split, names: Sequence[str]) -> tuple[str, ...]:
    """The samples, of these names, that a split puts into no part."""
    used = {name for chosen in split.parts.values() for name in chosen}
    return tuple(name for name in names if name not in used)


def places_of(split: Split, names: Sequence[str], data: str) -> dict[str, Tensor]:
    """Where the samples of each part stand among all of a data set.

    Args:
        split: names by part.
        names: of all samples.
        data: what the data set is called in the error.

    Returns:
        Indices into ``names`` for ``train``, ``val`` and ``test``.

    Raises:
        ValueError: samples that are not there; the first ones are named.

    >>> split = Split({"train": ["c", "a"], "val": ["b"]})
    >>> places_of(split, ["a", "b", "c"], "letters")["train"]
    tensor([2, 0])
    """
    where = {name: index for index, name in enumerate(names)}
    missing = [name for part in split.parts.values() for name in part if name not in where]
    if missing:
        raise ValueError(
            f"the split names {len(missing):,} samples that are not in {data}: {listed(missing)}. "
            "Give the split of these data, or leave dataset.split out"
        )
    return {
        part: torch.tensor([where[name] for name in chosen]) for part, chosen in split.parts.items()
    }
