"""Whether a data set gives the same items at every read, and how to make sure that it does.

A data set is taken as changing if a transform of it is known to draw at random, or if one of some
items, spread over it, differs between two reads. Randomness that neither check finds, rare or
hidden in the data set's own code, is frozen: such items are read under a seed that derives from
their index, and so have the same bits wherever they are read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.randomness import derive_seed, isolated_rng, preserved_rng, seed_global_states
from lipt_cords.data.reads import note_read

PROBED_ITEMS = 64
"""Items read twice to find out whether a data set changes."""
RANDOM_TRANSFORMS = {
    "AugMix", "AutoAugment", "ColorJitter", "ElasticTransform", "GaussianBlur", "GaussianNoise",
    "JPEG", "RandAugment", "ScaleJitter", "TrivialAugmentWide",
}  # fmt: skip
"""Transforms of torchvision that draw at random, beside those called Random..."""
_INSIDE = ("transform", "transforms", "target_transform", "dataset", "datasets")


class ItemsBySeed(Dataset[Any]):
    """A data set whose items are each read under a seed of their own index.

    Args:
        dataset: a map-style data set.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of a batch, as a DataLoader asks for them; random states are kept once."""
        items = []
        with preserved_rng():
            for index in indices:
                seed_global_states(derive_seed(0, "item", index))
                items.append(self._dataset[index])
                note_read()
        return items


def spread(count: int, most: int) -> Tensor:
    """Up to ``most`` positions of ``count``, evenly spread, the first and the last among them.

    >>> spread(100, 4).tolist(), spread(3, 4).tolist()
    ([0, 33, 66, 99], [0, 1, 2])
    """
    taken = min(count, most)
    return torch.arange(taken) * (count - 1) // max(1, taken - 1)


def differs_between_reads(read: Callable[[Tensor], dict[str, Tensor]], indices: Tensor) -> bool:
    """Whether one of some items, spread over the given ones, differs between two reads."""
    chosen = indices[spread(len(indices), PROBED_ITEMS)]
    reads = []
    for attempt in range(2):
        with isolated_rng(attempt, "read twice"):
            reads.append([_read_if_it_can_be(read, part) for part in torch.split(chosen, 1)])
    return any(
        one.keys() != two.keys() or not all(_same(one[name], two[name]) for name in one)
        for one, two in zip(*reads, strict=True)
    )


def draws_at_random(dataset: Dataset[Any]) -> bool:
    """Whether a transform of a data set, or of one below it, is known to draw at random."""
    seen: set[int] = set()

    def look(part: Any) -> bool:
        if id(part) in seen:
            return False
        seen.add(id(part))
        if isinstance(part, list | tuple):
            # A data set's own lists are of files and labels, and long.
            return len(part) <= PROBED_ITEMS and any(map(look, part))
        name = type(part).__name__
        if callable(part) and (name.startswith("Random") or name in RANDOM_TRANSFORMS):
            return True
        inside: list[Any] = list(part.children()) if isinstance(part, nn.Module) else []
        own = getattr(part, "__dict__", {})  # properties are not read: they might load the data
        if isinstance(part, Dataset):
            inside += [value for value in own.values() if callable(value)]
        if isinstance(part, functools.partial):
            inside += [part.func, *part.args, *part.keywords.values()]
        inside += [own.get(name, vars(type(part)).get(name)) for name in _INSIDE]
        return any(look(value) for value in inside if value is not None)

    return look(dataset)


def _read_if_it_can_be(
    read: Callable[[Tensor], dict[str, Tensor]], indices: Tensor
) -> dict[str, Tensor]:
    try:
        return read(indices)
    except Exception:  # the error is raised where the item is needed, if ever
        return {}


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN included: a NaN that stays is no change."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
