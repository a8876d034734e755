"""Features of every sample of a data set, in chunks, and the same map for other data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.arrays import as_tensor
from lipt_cords.base.process_memory import free_bytes
from lipt_cords.base.sizes import show_bytes
from lipt_cords.data.batches import dataset_length
from lipt_cords.data.collated import CollateFunction, collated
from lipt_cords.models.features.embeddings import embeddings
from lipt_cords.models.features.kinds import CHUNK, KINDS, FeatureMap, Samples, kind_of
from lipt_cords.models.gradients import finite_rows


@dataclass(frozen=True)
class Features:
    """A row of numbers for every sample.

    Attributes:
        values: (N, F) float32 on the CPU, finite.
        kind: what they are, such as ``"patches"``.
        map: gives the same features of other samples; None where rows were brought.
    """

    values: Tensor
    kind: str = "given"
    map: FeatureMap | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """Numbers a sample."""
        return int(self.values.shape[1])

    def of(
        self,
        dataset: Dataset[Any],
        *,
        device: torch.device | str = "auto",
        collate_fn: CollateFunction | None = None,
    ) -> Features:
        """The same features of another data set, for instance of held-out samples.

        Raises:
            ValueError: the features were brought as rows, so that there is no map.
        """
        if self.map is None:
            raise ValueError(
                "these features were brought as rows and have no map for other samples: give rows "
                "of the other samples too"
            )
        samples = Samples(collated(dataset, collate_fn), device)
        return Features(_mapped(self.map, samples, self.kind), self.kind, self.map)


def features(
    dataset: Dataset[Any],
    kind: str | nn.Module | Features | Tensor | NDArray[Any] = "auto",
    *,
    seed: int = 0,
    device: torch.device | str = "auto",
    collate_fn: CollateFunction | None = None,
) -> Features:
    """Features of every sample, without training anything.

    Args:
        dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels; labels are not used.
        kind: ``"patches"`` for images, ``"ngrams"`` for texts and token ids, ``"columns"`` for
            rows of numbers, another registered kind, or ``"auto"``, which tells by the first
            sample: integers (T,) are token ids, so a table of integers needs ``"columns"``. A
            network: its embeddings, the inputs of its linear head, such as those of a
            pretrained or a warm model. Rows (N, F) or `Features` that are there already are
            checked and taken as they are.
        seed: of what a kind draws.
        device: where chunks are mapped; the rows lie on the CPU.
        collate_fn: makes a batch of a list of items, as DataLoader's does, such as one that pads
            texts; None stacks tensors.

    Returns:
        N rows of float32 in the order of the data set.

    Raises:
        ValueError: no kind fits the samples; rows that do not match the data set, are not finite,
            are all equal, or would not fit in the memory that is free.

    >>> data = torch.utils.data.TensorDataset(torch.rand(50, 3), torch.arange(50) % 2)
    >>> features(data).values.shape, features(data).kind
    (torch.Size([50, 3]), 'columns')
    """
    dataset = collated(dataset, collate_fn)
    count = dataset_length(dataset)
    if count == 0:
        raise ValueError("the data set is empty: expected at least one sample")
    if isinstance(kind, Features):
        return Features(check_rows(kind.values, count), kind.kind, kind.map)
    if isinstance(kind, Tensor | np.ndarray):
        return Features(check_rows(kind, count))
    if isinstance(kind, nn.Module):
        name, samples = "embeddings", Samples(dataset, device, seed)
        made = embeddings(kind, samples)
    else:
        name = kind_of(dataset) if kind == "auto" else kind
        make, samples = KINDS[name], Samples(dataset, device, seed)
        made = make(samples)
    return Features(_mapped(made, samples, name), name, made)


def check_rows(values: Any, count: int | None = None, *, vary: bool = True) -> Tensor:
    """Rows of features as (N, F) float32 on the CPU.

    Args:
        values: a tensor, or an array with any strides and byte order.
        count: N; None for any.
        vary: refuse rows that are all equal.

    Raises:
        ValueError: another shape or number of rows, no numbers, entries that are not finite.
    """
    rows = as_tensor("features", values)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"expected features of shape (samples, features), received {tuple(rows.shape)} of "
            f"{rows.dtype}: flatten what a sample is into one row"
        )
    if count is not None and len(rows) != count:
        raise ValueError(
            f"expected one row of features for each of {count} samples, received {len(rows)}"
        )
    rows = rows.to("cpu", torch.float32)
    wrong = (~finite_rows(rows)).nonzero().flatten()[:5].tolist()
    if wrong:
        raise ValueError(
            f"features of samples {wrong} are NaN or infinite, or too large for float32: "
            "repair these samples or leave them out"
        )
    varied = not vary or len(rows) < 2
    if not (varied or any(bool((part != rows[0]).any()) for part in torch.split(rows, 65_536))):
        raise ValueError(
            "the features of all samples are equal, so nothing tells one from another: bring other "
            "features"
        )
    return rows


def _mapped(made: FeatureMap, samples: Samples, name: str) -> Tensor:
    count, size = len(samples), 4 * len(samples) * made.width
    free = free_bytes(torch.device("cpu"))
    if size > free:
        raise ValueError(
            f"features of {count:,} samples, {made.width} numbers each, take {show_bytes(size)}, "
            f"and {show_bytes(free)} are free: choose among a part of the samples, or give "
            "features= a network with smaller embeddings"
        )
    rows = torch.empty(count, made.width)
    start = 0
    for chunk in samples.chunks():
        try:
            part = made.apply(chunk)
        except RuntimeError as error:
            raise ValueError(
                f"these features ({name}) cannot read samples {start} to "
                f"{min(count, start + CHUNK) - 1}: do all have one shape, that of the samples "
                f"which the features were fitted to? {error}"
            ) from error
        rows[start : start + len(part)] = part
        start += len(part)
    return check_rows(rows, count)
