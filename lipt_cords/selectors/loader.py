"""Weighted batches of a selected subset, as a real `torch.utils.data.DataLoader`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import default_collate

from lipt_cords.base.randomness import generator
from lipt_cords.selectors.base import Selection

Key = tuple[int, float]
"""What the sampler yields: a sample's index and its weight, so workers hold no selection."""


class _WeightedItems(Dataset[tuple[Any, float]]):
    """A data set asked by (index, weight), answering (sample, weight)."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> tuple[Any, float]:
        index, weight = key
        return self.dataset[index], weight

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))


class _WeightedCollate:
    """Collates samples as usual, then adds their weights. A class, so that workers can pickle."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[tuple[Any, float]]) -> Any:
        batch = self.collate([sample for sample, _ in items])
        weights = torch.tensor([weight for _, weight in items], dtype=torch.float32)
        if isinstance(batch, Mapping):
            return {**batch, "weights": weights}
        if isinstance(batch, tuple | list):
            return (*batch, weights)
        return (batch, weights)


class SelectionSampler(Sampler[Key]):
    """The (index, weight) pairs of a selection, in a fresh order every epoch.

    Args:
        selection: what to walk through.
        shuffle: whether the order changes from epoch to epoch.
        seed: seed of the orders; the same on every rank.
        num_replicas: processes that share the epoch: each takes every ``num_replicas``-th entry.
            All take equally many steps, and yet no sample counts twice: where the selection does
            not divide, a rank that is one short begins with a sample of weight 0.
        rank: which of them this is.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        shuffle: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if not 0 <= rank < num_replicas:
            raise ValueError(
                f"expected a rank in [0, num_replicas), received {rank} of {num_replicas}"
            )
        self.shuffle, self.seed = shuffle, seed
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch = 0
        self.skip = 0
        self.reselect(selection)

    def reselect(self, selection: Selection) -> None:
        """Walk through another selection from the next epoch on."""
        if len(selection) == 0:
            raise ValueError("expected a selection of at least one sample, received an empty one")
        self.selection = selection

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        size = len(self.selection)
        order = torch.arange(size)
        if self.shuffle:
            draws = generator(self.seed, "subset-loader", self.epoch)
            order = torch.randperm(size, generator=draws)
        mine = order[self.rank :: self.num_replicas]
        indices = self.selection.indices[mine].tolist()
        weights = self.selection.weights[mine].tolist()
        if len(indices) < len(self):
            # First, not last, so that it is never alone in a short last batch.
            indices.insert(0, int(self.selection.indices[order[0]]))
            weights.insert(0, 0.0)
        start, self.skip = self.skip, 0
        self.epoch += 1
        yield from zip(indices[start:], weights[start:], strict=True)

    def __len__(self) -> int:
        return -(-len(self.selection) // self.num_replicas)


class SubsetLoader(DataLoader[Any]):
    """A DataLoader over a selection that yields ``(x, y, weights)``, or dicts with ``weights``.

    The weights follow `Selection`: average ``weights * loss`` over a batch. Nothing is copied:
    the data set is read at the selected indices. The order comes from an explicit generator,
    so equal seeds give equal epochs, with any number of workers.

    Args:
        dataset: map-style; items are tuples or dicts.
        selection: indices into it, and weights.
        batch_size: samples a batch.
        shuffle: a fresh order every epoch.
        seed: seed of the orders.
        num_replicas: processes that share every epoch, as under DistributedSampler but without
            its repeated samples (see `SelectionSampler`); None for the process group's, or 1
            without one. Under ``accelerate``, which shards batches itself, pass 1, and
            ``even_batches=False`` to it if no sample may come twice there.
        rank: this process; None for the process group's.
        collate_fn: collates the samples; the weights are added to what it returns.
        **loader_options: passed to DataLoader, such as ``num_workers``, ``drop_last``.

    Raises:
        ValueError: a selection that is empty or points outside the data set; an option that
            would replace the selection's order.

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.arange(4.0), torch.tensor([0, 1, 0, 1]))
    >>> chosen = Selection(torch.tensor([3, 0]), torch.tensor([0.5, 1.5]))
    >>> for x, y, w in SubsetLoader(data, chosen, batch_size=2, shuffle=False):
    ...     print(x.tolist(), y.tolist(), w.tolist())
    [3.0, 0.0] [1, 0] [0.5, 1.5]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        selection: Selection,
        *,
        batch_size: int = 128,
        shuffle: bool = True,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **loader_options: Any,
    ) -> None:
        for option in ("sampler", "batch_sampler", "generator"):
            if option in loader_options:
                raise ValueError(
                    f"SubsetLoader draws its own order: leave {option!r} out, and use seed=, "
                    "num_replicas= and rank="
                )
        _check_range(selection, dataset)
        joined = dist.is_available() and dist.is_initialized()
        if num_replicas is None:
            num_replicas = dist.get_world_size() if joined else 1
        if rank is None:
            rank = dist.get_rank() if joined and num_replicas > 1 else 0
        self._source = dataset
        self._epoch = 0
        self._position = 0
        self._resume_at = 0
        super().__init__(
            _WeightedItems(dataset),
            batch_size=batch_size,
            sampler=SelectionSampler(
                selection, shuffle=shuffle, seed=seed, num_replicas=num_replicas, rank=rank
            ),
            collate_fn=_WeightedCollate(collate_fn or default_collate),
            # Seeds of the data workers; without it every epoch draws from the global state.
            generator=generator(seed, "subset-loader", "workers"),
            **loader_options,
        )

    @property
    def selection(self) -> Selection:
        """The selection that is walked through."""
        return self._order.selection

    @property
    def _order(self) -> SelectionSampler:
        return cast(SelectionSampler, self.sampler)

    def reselect(self, selection: Selection) -> None:
        """Replace the selection in place; the next epoch walks through the new one."""
        _check_range(selection, self._source)
        self._order.reselect(selection)
        self._position = self._resume_at = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; without it epochs count up by themselves."""
        self._epoch = epoch
        self._position = self._resume_at = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._order.set_epoch(self._epoch)
        # An interrupted epoch starts again; only a loaded state continues within one.
        self._position, self._resume_at = self._resume_at, 0
        self._order.skip = self._position * cast(int, self.batch_size)
        for batch in super().__iter__():
            self._position += 1
            yield batch
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The selection, the epoch, and how many of its batches have been taken."""
        return {
            "indices": self.selection.indices.clone(),
            "weights": self.selection.weights.clone(),
            "name": self.selection.name,
            "epoch": self._epoch,
            "position": self._position,
            "seed": self._order.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, within an epoch too.

        Raises:
            ValueError: a state of something else, or of another data set.
        """
        missing = {"indices", "weights", "name", "epoch", "position", "seed"} - set(state)
        if missing:
            raise ValueError(f"expected the state of a SubsetLoader, it lacks {sorted(missing)}")
        self.reselect(Selection(state["indices"], state["weights"], name=state["name"]))
        self._epoch = int(state["epoch"])
        self._position = self._resume_at = int(state["position"])
        self._order.seed = int(state["seed"])


def broadcast_selection(selection: Selection | None, *, src: int = 0) -> Selection:
    """The selection of one process, on all of them: select on rank 0, train everywhere.

    Args:
        selection: the selection on rank ``src``; ignored elsewhere, may be None.
        src: the rank that selected.

    Returns:
        The same selection on every rank. Without a process group, the one given.

    Raises:
        ValueError: rank ``src`` has none.
    """
    joined = dist.is_available() and dist.is_initialized()
    holds = not joined or dist.get_rank() == src
    box: list[Selection | None] = [selection if holds else None]
    if joined:
        dist.broadcast_object_list(box, src=src)
    if box[0] is None:
        raise ValueError(f"expected a selection on rank {src}, received None")
    return box[0]


def _check_range(selection: Selection, dataset: Dataset[Any]) -> None:
    indices: Tensor = selection.indices
    size = len(cast(Sized, dataset))
    if len(indices) == 0:
        raise ValueError("expected a selection of at least one sample, received an empty one")
    if len(indices) != len(selection.weights):
        raise ValueError(
            f"expected one weight an index, received {len(indices)} indices and "
            f"{len(selection.weights)} weights"
        )
    if int(indices.min()) < 0 or int(indices.max()) >= size:
        raise ValueError(
            f"expected indices in [0, {size}), the length of the data set, received "
            f"{int(indices.min())} to {int(indices.max())}: it was selected from another pool"
        )
