"""A digest of what a data set holds, to notice that a resumed run has other data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.data.batches import dataset_length, split_batch
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.source import BatchSource
from lipt_cords.data.steadiness import spread
from lipt_cords.data.tables.rows import TableRows

SAMPLES = 16
"""Items that are read of data sets that are not in memory."""
CHUNK = 4096


def contents_of(dataset: Dataset[Any]) -> str | None:
    """A digest of a data set: the same for the same contents, wherever they lie.

    Of decoded images and rows of tables every byte counts; of image files the names, the sizes, and
    the pixels of 16 images; of other data sets 16 items, spread over the whole. The global random
    state is preserved.

    Args:
        dataset: map-style.

    Returns:
        16 hexadecimal digits; None if items differ between two reads under the same seed.

    >>> dark = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    >>> one, other = (ImageTensors(images, torch.arange(2)) for images in (dark, dark + 1))
    >>> contents_of(one) == contents_of(one), contents_of(one) == contents_of(other)
    (True, False)
    """
    total = hashlib.sha256(str(dataset_length(dataset)).encode())
    if isinstance(dataset, ImageTensors):
        for part in torch.split(dataset.images, CHUNK):
            _add(total, part)
        _add(total, dataset.labels)
        return total.hexdigest()[:16]
    if isinstance(dataset, TableRows):
        total.update(dataset.digest().encode())
        return total.hexdigest()[:16]
    if isinstance(dataset, FolderImages):
        root = os.path.commonpath(dataset.paths)
        for path in dataset.paths:
            name = Path(path).relative_to(root).as_posix() if path != root else Path(path).name
            # Names of old file systems may be no UTF-8.
            total.update(os.fsencode(f"{name} {os.stat(path).st_size}\n"))  # noqa: PTH116
        _add(total, dataset.labels)
    digests = []
    for _ in range(2):
        read = total.copy()
        with isolated_rng(0, "contents"):
            # Items of several sizes stand in no batch, but each can be read.
            for index in spread(dataset_length(dataset), SAMPLES).tolist():
                source = BatchSource(Subset(dataset, [index]), cache_bytes=0)
                inputs, labels = split_batch(next(source.batches(batch_size=1)))
                named = {"": inputs} if isinstance(inputs, Tensor) else inputs
                for name, values in sorted(named.items()):
                    read.update(name.encode())
                    _add(read, values)
                _add(read, labels)
        digests.append(read.hexdigest()[:16])
    return digests[0] if digests[0] == digests[1] else None


def _add(total: Any, values: Tensor) -> None:
    plain = values.detach().cpu().contiguous()
    total.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
    total.update(plain.reshape(-1).view(torch.uint8).numpy().data)
