"""Rows of a table kept as they were read, and made into inputs of a net when they are read.

A column of many categories takes four bytes a row here, and four for each category as an input: so
inputs are made batch by batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.base.listing import listed
from lipt_cords.data.tables.uses import Uses

CATEGORIES = 64
"""A column has an input for each of so many categories, the most frequent ones; one for all others
together."""
_CHUNK = 65_536
_NAMED = 8


@dataclass(frozen=True)
class Encoding:
    """How rows become inputs: measured on training rows.

    A number is standardised; a missing one becomes the mean, 0, and sets an input of its own where
    training rows miss some. A category is one input of several that is 1; one that no training row
    has, or that is missing in none of them, leaves all of them 0.
    """

    mean: Tensor
    """Of each column of numbers, (P,)."""
    scale: Tensor
    """What it is multiplied by, (P,); 0 for a constant column."""
    gaps: Tensor
    """Columns of numbers of which values are missing: their places, (G,)."""
    inputs: Tensor
    """Which input a category sets, for all columns one after another; ``width`` for none."""
    starts: Tensor
    """Where a column begins in ``inputs``, (Q,): its first entry is for missing values."""
    width: int
    """Numbers a row."""


class TableRows(Dataset[tuple[Tensor, int]]):
    """Rows of a table with their labels; items are inputs (F,) and a class.

    Args:
        numbers: columns of numbers, (N, P) float32; NaN where one is missing.
        codes: columns of categories, (N, Q) int32: places in ``categories``; -1 for missing.
        labels: classes, (N,).
        names: of the columns of numbers, then of those of categories.
        units: what a value of ``numbers`` is counted in, (P,) float64 each: an offset and a factor
            that give the value of the table.
        categories: the texts of each column of categories.
        encoding: how rows become inputs; None measures all rows.
        dates: names of the columns of numbers that are days since 1970.
    """

    def __init__(
        self,
        numbers: Tensor,
        codes: Tensor,
        labels: Tensor,
        names: tuple[str, ...],
        units: tuple[Tensor, Tensor],
        categories: tuple[tuple[str, ...], ...],
        encoding: Encoding | None = None,
        dates: tuple[str, ...] = (),
    ) -> None:
        self.numbers, self.codes = numbers, codes
        self.labels = labels.to(torch.int64)
        self.names, self.units, self.categories = names, units, categories
        self.dates = dates
        self._encoding = encoding

    @property
    def encoding(self) -> Encoding:
        """How rows become inputs."""
        if self._encoding is None:
            self._encoding = self._measured()
        return self._encoding

    @staticmethod
    def of(uses: Uses, labels: Tensor) -> TableRows:
        """The rows of columns whose use is known; columns are given up one by one.

        Args:
            uses: what was read of them; it is empty afterwards.
            labels: (N,).
        """
        rows, names = len(labels), (*uses.numbers, *uses.categories)
        dates = tuple(name for name, one in uses.numbers.items() if one.dates)
        numbers = torch.empty((rows, len(uses.numbers)))
        offsets = torch.zeros(numbers.shape[1], dtype=torch.float64)
        factors = torch.ones_like(offsets)
        for place, name in enumerate(list(uses.numbers)):
            values = uses.numbers.pop(name).values
            # float32 has seven digits: large ones, such as times in seconds, keep those that vary.
            there = values[~np.isnan(values)]
            offsets[place] = float(np.median(there))
            spread = float(np.abs(there - float(offsets[place])).max())
            factors[place] = spread or 1.0
            numbers[:, place] = torch.from_numpy(
                ((values - float(offsets[place])) / float(factors[place])).astype(np.float32)
            )
        codes = torch.empty((rows, len(uses.categories)), dtype=torch.int32)
        categories = []
        for place, name in enumerate(list(uses.categories)):
            column = uses.categories.pop(name)
            codes[:, place] = torch.from_numpy(column.codes)
            categories.append(column.texts)
        units, texts = (offsets, factors), tuple(categories)
        return TableRows(numbers, codes, labels, names, units, texts, dates=dates)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, labels = self.gather(torch.tensor([index]))
        return inputs[0], int(labels[0])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Items for a DataLoader's batch, made together."""
        inputs, labels = self.gather(torch.as_tensor(indices))
        return list(zip(inputs.unbind(0), labels.tolist(), strict=True))

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Many items at once: inputs (B, F) as float32 and labels (B,)."""
        made, where = self.encoding, indices.cpu()
        numbers, codes = self.numbers[where], self.codes[where]
        missing = numbers.isnan()
        standard = ((numbers - made.mean) * made.scale).masked_fill_(missing, 0.0)
        inputs = torch.zeros(len(where), made.width + 1)  # the last is for what sets none
        inputs[:, : standard.shape[1]] = standard
        end = standard.shape[1] + len(made.gaps)
        inputs[:, standard.shape[1] : end] = missing[:, made.gaps].float()
        if codes.shape[1]:
            inputs.scatter_(1, made.inputs[codes.long() + 1 + made.starts], 1.0)
        return inputs[:, : made.width].contiguous(), self.labels[where]

    def equal_to(self, other: TableRows) -> int:
        """How many rows have the values of a row of another part of the table, labels apart."""
        return int(np.isin(self._hashes(), other._hashes()).sum())

    def _hashes(self) -> npt.NDArray[np.int64]:
        """One number a row, (N,), equal where all values are."""
        hashes = np.zeros(len(self), dtype=np.int64)
        for column in (*self.numbers.view(torch.int32).T, *self.codes.T):
            hashes = hashes * 6_364_136_223_846_793_005 + column.numpy()
            hashes ^= hashes >> 29
        return hashes

    def select(self, indices: Tensor) -> TableRows:
        """Some of the rows, in the order given, with the same encoding."""
        taken = self.numbers[indices], self.codes[indices], self.labels[indices]
        columns = self.names, self.units, self.categories
        return TableRows(*taken, *columns, self._encoding, self.dates)

    def encoded_as(self, encoding: Encoding) -> TableRows:
        """The same rows with another encoding."""
        held = self.numbers, self.codes, self.labels
        return TableRows(*held, self.names, self.units, self.categories, encoding, self.dates)

    def statistics(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each column of numbers over some rows, (P,), of those it has.

        The deviation of a constant column is infinite, so that it becomes 0.
        """
        count = torch.zeros(self.numbers.shape[1], dtype=torch.float64)
        total, squares = torch.zeros_like(count), torch.zeros_like(count)
        for part in torch.split(indices, _CHUNK):
            values = self.numbers[part].double()
            count += (~values.isnan()).sum(dim=0)
            total += values.nansum(dim=0)
            squares += values.square().nansum(dim=0)
        mean, square = total / count.clamp_min(1), squares / count.clamp_min(1)
        std = (square - mean.square()).clamp_min(0).sqrt()
        # Relative to the values here: other rows may hold some that are far larger.
        return mean.float(), torch.where(std <= 1e-7 * square.sqrt(), torch.inf, std).float()

    def normalised_as(self, mean: Tensor, std: Tensor) -> TableRows:
        """The same rows with other means and deviations of their numbers."""
        return self.encoded_as(replace(self.encoding, mean=mean, scale=1 / std))

    def described(self, index: int) -> str:
        """A row as text: the columns that are used, with the values of the table.

        Missing ones are left out.
        """
        said = []
        offsets, factors = self.units
        for place, name in enumerate(self.names[: self.numbers.shape[1]]):
            value = float(self.numbers[index, place]) * float(factors[place])
            if not np.isnan(value):
                value += float(offsets[place])
                said.append(f"{name} {_day(value) if name in self.dates else f'{value:.6g}'}")
        for place, texts in enumerate(self.categories):
            code = int(self.codes[index, place])
            if code >= 0:
                said.append(f"{self.names[self.numbers.shape[1] + place]} {texts[code]}")
        return ", ".join(said)

    def digest(self) -> str:
        """A digest of the rows and of the columns' names: 16 hexadecimal digits."""
        total = hashlib.sha256(repr((self.names, self.categories)).encode())
        for held in (self.numbers, self.codes, self.labels, *self.units):
            total.update(f"{tuple(held.shape)}".encode())
            total.update(held.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()[:16]

    def measured_on(self, indices: Tensor) -> TableRows:
        """The same rows, encoded as some of them need it."""
        return self.encoded_as(self._measured(indices))

    def _measured(self, indices: Tensor | None = None) -> Encoding:
        rows = torch.arange(len(self)) if indices is None else indices
        mean, std = self.statistics(rows)
        missing = torch.zeros(self.numbers.shape[1], dtype=torch.bool)
        for part in torch.split(rows, _CHUNK):
            missing |= self.numbers[part].isnan().any(dim=0)
        gaps = missing.nonzero().flatten()
        width = self.numbers.shape[1] + len(gaps)
        counts = []
        for place, texts in enumerate(self.categories):
            found = self.codes[rows, place].long() + 1
            counts.append(torch.bincount(found, minlength=len(texts) + 1))
        lengths = torch.tensor([len(one) for one in counts], dtype=torch.int64)
        sets = [torch.empty(0, dtype=torch.int64)]
        for of_column in counts:
            inputs, width = _inputs_of(of_column, width)
            sets.append(inputs)
        none = torch.cat(sets)
        starts = lengths.cumsum(0) - lengths
        return Encoding(mean, 1 / std, gaps, torch.where(none < 0, width, none), starts, width)


def _inputs_of(counts: Tensor, first: int) -> tuple[Tensor, int]:
    """Which input each category of a column sets, and the first one after them.

    Args:
        counts: how many training rows have each; missing values first.
        first: input of this column.

    Returns:
        Inputs; -1 for what no training row has.

    >>> _inputs_of(torch.tensor([0, 5, 0, 9]), 10)
    (tensor([-1, 11, -1, 10]), 12)
    """
    order = torch.argsort(counts, descending=True, stable=True)
    there = order[counts[order] > 0]
    inputs = torch.full((len(counts),), -1)
    alone = there[:CATEGORIES]
    inputs[alone] = first + torch.arange(len(alone))
    inputs[there[CATEGORIES:]] = first + len(alone)
    return inputs, first + min(len(there), CATEGORIES + 1)


def _day(days: float) -> str:
    """The date of days since 1970; float32 keeps them to a minute or so.

    >>> _day(19529.0), _day(19528.9999)
    ('2023-06-21', '2023-06-21')
    """
    return str(np.datetime64(int(np.floor(days + 0.002)), "D"))


def summary(rows: TableRows) -> str:
    """The columns that are used, and how, in a few words."""
    names = rows.names[: rows.numbers.shape[1]]
    numbers = [name for name in names if name not in rows.dates]
    kinds = [
        f"{name}: {len(texts):,}"
        for name, texts in zip(rows.names[len(names) :], rows.categories, strict=True)
    ]
    said = [
        f"{len(some)} {what if len(some) == 1 else plural} ({listed(some, _NAMED)})"
        for some, what, plural in (
            (numbers, "number", "numbers"),
            ([name for name in names if name in rows.dates], "date", "dates"),
            (kinds, "category", "categories"),
        )
        if some
    ]
    width = rows.encoding.width
    return f"{width:,} {'input' if width == 1 else 'inputs'} of {', '.join(said)}"
