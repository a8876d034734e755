"""A data set of given items."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class Items(Dataset[Any]):
    """A list of items, and which of them were read."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.items[index]
