"""What a selection leaves for people and other programs: ``selected.csv`` and ``split.json``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lipt_cords.base.files import write_atomic, write_json
from lipt_cords.data.datasets import DataSplits
from lipt_cords.data.labels import labels_of
from lipt_cords.data.sample_lists import OF, as_csv

TABLE, SPLIT = "selected.csv", "split.json"
SELECTION = "selection.json"
"""The record of a selection that ``select`` makes."""


def write_table(
    directory: Path,
    splits: DataSplits,
    indices: Tensor,
    weights: Tensor,
    scores: Tensor | None = None,
) -> Path:
    """Write ``selected.csv``: a line a sample, in the order of choice, under a heading.

    Columns: ``path`` in the image folder (``row`` of a table; for other data ``sample``, its place
    such as ``train/7``), ``index`` in the training part, ``label``, ``class`` where classes have
    names, ``weight``, ``score`` where there are scores, and ``data``, of which data it is, where
    samples have numbers alone.

    Args:
        directory: where.
        splits: the data.
        indices: of the chosen training samples, (k,).
        weights: (k,).
        scores: (k,), or None.
    """
    labels = labels_of(splits.train)[indices].tolist()
    names = splits.samples.get("train", ())
    columns: dict[str, list[object]] = {}
    if names:
        columns[splits.naming] = [names[index] for index in indices.tolist()]
    columns |= {"index": indices.tolist(), "label": labels}
    if splits.class_names:
        columns["class"] = [splits.class_names[label] for label in labels]
    columns["weight"] = [f"{weight:.9g}" for weight in weights.tolist()]
    if scores is not None:
        columns["score"] = [f"{score:.9g}" for score in scores.tolist()]
    if splits.known_by:
        columns[OF] = [splits.known_by] * len(labels)
    rows = zip(*columns.values(), strict=True)
    return write_atomic(directory / TABLE, as_csv(list(columns), rows))


def write_split(directory: Path, splits: DataSplits) -> Path | None:
    """Write ``split.json``: the samples of each part, as ``dataset.split`` takes them.

    It has no checksum, so that it can be edited. Data whose samples have no names have none.
    """
    if not splits.samples:
        return None
    parts = {part: list(names) for part, names in splits.samples.items()}
    unreadable = dict(splits.left_out.unreadable)
    head = {"schema": 1, "kind": "split", "dataset": splits.name}
    head |= {"known_by": splits.known_by} if splits.known_by else {}
    return write_json(directory / SPLIT, {**head, **parts, "unreadable": unreadable})
