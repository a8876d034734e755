"""Who wants to know that this process reads items: reading is progress, however long it takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import Dataset

_LISTENERS: list[tuple[int, Callable[[], None]]] = []
"""What to call, with the process that asked for it: readers that were forked from it do not."""


@contextmanager
def on_read(call: Callable[[], None]) -> Iterator[None]:
    """Inside, a function is called after every item, or batch of items, that this process reads.

    Args:
        call: fast; may raise, to stop reading.
    """
    listener = (os.getpid(), call)
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def note_read() -> None:
    """Say that something was read."""
    for process, call in _LISTENERS:
        if process == os.getpid():
            call()


class NotedItems(Dataset[Any]):
    """A data set that says so after every item.

    Args:
        dataset: a map-style data set without ``__getitems__``.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        item = self._dataset[index]
        note_read()
        return item
