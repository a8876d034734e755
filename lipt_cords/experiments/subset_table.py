"""A table of the chosen rows alone, with the columns of the whole one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits, find_data
from lipt_cords.data.tables.parts import same_kind
from lipt_cords.data.tables.written import write_rows


def check_subset_table(target: Path, config: RunConfig, *, link: bool) -> None:
    """Refuse a file in which no subset can be written, before anything is computed.

    Args:
        target: the file to be made.
        config: its data, a table.
        link: whether links were asked for.

    Raises:
        ValueError: links, a file that exists, or one of another kind than the table.
    """
    if link:
        raise ValueError("--link makes links to image files, and rows are none: use --copy FILE")
    source = find_data(config.dataset.name, config.dataset.datadir)
    if source is not None and not same_kind(source, target):
        raise ValueError(
            f"--copy writes the rows as {source.name} has them, received {target}: name a new file "
            f"that ends in {source.suffix}"
        )
    if target.exists():
        raise ValueError(f"{target} is there already: choose another name for the subset")


def make_subset_table(target: Path, splits: DataSplits, indices: Sequence[int]) -> Path:
    """Write some training rows, in the order of the table, whole or not at all.

    Args:
        target: the file; :func:`check_subset_table` has accepted it.
        splits: its data.
        indices: of the training rows.
    """
    if splits.file is None or not splits.file.is_file():
        raise ValueError(f"{splits.name} is no longer there: the subset cannot be copied")
    return write_rows(
        splits.file, {int(splits.samples["train"][index]) for index in indices}, target
    )
