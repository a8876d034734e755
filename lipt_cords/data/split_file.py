"""Which sample is in which part, as a file: ``split.json`` of one run, given to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipt_cords.base.files import read_json
from lipt_cords.base.listing import listed

PARTS = ("train", "val", "test")
Split = Mapping[str, Sequence[str]]
"""Names of the samples of each part, in order."""


def read_split(path: str | Path, dataset: str) -> Split:
    """Read a split.

    Args:
        path: JSON with the lists ``train``, ``val`` and ``test`` of sample names, and maybe the
            name of its ``dataset``; other entries are not read.
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
    return {part: payload[part] for part in PARTS}


def unnamed(split: Split, names: Sequence[str]) -> tuple[str, ...]:
    """The samples, of these names, that a split puts into no part."""
    used = {name for chosen in split.values() for name in chosen}
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

    >>> places_of({"train": ["c", "a"], "val": ["b"]}, ["a", "b", "c"], "letters")["train"]
    tensor([2, 0])
    """
    where = {name: index for index, name in enumerate(names)}
    missing = [name for part in split.values() for name in part if name not in where]
    if missing:
        raise ValueError(
            f"the split names {len(missing):,} samples that are not in {data}: {listed(missing)}. "
            "Give the split of these data, or leave dataset.split out"
        )
    return {part: torch.tensor([where[name] for name in chosen]) for part, chosen in split.items()}
