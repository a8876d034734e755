"""The page of labels that are probably wrong, with the pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.tables.rows import TableRows
from lipt_cords.experiments.report.templating import rendered

PICTURES = 300
"""The page shows this many suspects; the list has all."""
SIDE = 96
"""Larger pictures are made smaller, in pixels."""
PAIRS = 12


@dataclass(frozen=True)
class Suspect:
    """One sample whose label is probably wrong."""

    sample: str
    """Its path in the image folder, its row in the table, or its place such as ``train/7``."""
    part: str
    """``train``, ``val`` or ``test``."""
    label: str
    """The class that it has now."""
    likely: str
    """The class that it probably belongs to."""
    score: float
    """By how much the likely class is ahead; larger for more suspect labels."""
    place: int
    """Its place in ``data``."""


def suspects_page(
    suspects: Sequence[Suspect],
    pairs: Sequence[tuple[str, str, int]],
    data: Dataset[Any],
    by: str,
    agreement: float,
    notes: Sequence[str],
    leave_out: str,
) -> str:
    """The page as one file that loads nothing from a network, with pictures or values of rows.

    Args:
        suspects: the most suspect first.
        pairs: label, likely class and number of suspects, the most frequent first.
        data: where their samples are.
        by: what the samples were compared by.
        agreement: share of the labels that are what the other samples predict.
        notes: what a reader must know.
        leave_out: the option that leaves the suspects out of a training.

    Raises:
        ImportError: jinja2 is not installed.
    """
    return rendered(
        "suspects.html",
        suspects=suspects,
        total=len(data),  # type: ignore[arg-type]
        shown=[
            (one, picture(data, one.place), values(data, one.place)) for one in suspects[:PICTURES]
        ],
        pairs=pairs[:PAIRS],
        by=by,
        agreement=f"{agreement:.0%}",
        notes=notes,
        leave_out=leave_out,
    )


def picture(data: Dataset[Any], place: int) -> str | None:
    """A sample as a PNG in a ``data:`` address; None for what is no image."""
    data, place = _within(data, place)
    if isinstance(data, ImageTensors):
        return as_png(data.images[place].cpu())
    if isinstance(data, FolderImages):
        return as_png(data.decode(place))
    return None


def values(data: Dataset[Any], place: int) -> str | None:
    """The values of a row of a table; None for other samples."""
    data, place = _within(data, place)
    return data.described(place) if isinstance(data, TableRows) else None


def _within(data: Dataset[Any], place: int) -> tuple[Dataset[Any], int]:
    """The data set that holds a sample, of those put together, and its place there."""
    while isinstance(data, ConcatDataset):
        number = next(n for n, end in enumerate(data.cumulative_sizes) if place < end)
        place -= data.cumulative_sizes[number - 1] if number else 0
        data = data.datasets[number]
    return data, place


def as_png(pixels: Tensor) -> str | None:
    """uint8 pixels (C, H, W) of one or three channels, at most ``SIDE`` wide and high."""
    from PIL import Image

    if pixels.shape[0] not in (1, 3):
        return None
    shown = torch.movedim(pixels, 0, -1).squeeze(-1).numpy()
    image = Image.fromarray(shown)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
