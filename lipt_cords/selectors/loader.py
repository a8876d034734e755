"""Weighted batches of a selected subset, as a real `torch.utils.data.DataLoader`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler
from torch.utils.data.dataloader import default_collate

from lipt_cords.base.devices import exchange_backend, resolve_device
from lipt_cords.base.messages import decode, encode
from lipt_cords.base.randomness import generator
from lipt_cords.data.open_files import nothing_left_open, own_file_positions
from lipt_cords.selectors.base import Selection

WEIGHTS = "weights"
"""The key of the weights in a batch that is a dict."""
Key = tuple[int, float]
"""What the sampler yields: a sample's index and its weight, so workers hold no selection."""


class _WeightedItems(Dataset[tuple[Any, float]]):
    """A data set asked by (index, weight), answering (sample, weight)."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        self._process = os.getpid()

    def __getitem__(self, key: Key) -> tuple[Any, float]:
        index, weight = key
        if self._process != os.getpid():  # the first read in a process of a DataLoader
            self._process = os.getpid()
            own_file_positions()
        return self.dataset[index], weight

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))


class _WeightedCollate:
    """Collates samples as usual, then adds their weights. A class, so that workers can pickle.

    Args:
        collate: the user's function, or None for torch's. Items that are None are left out, with
            their weights, before a function of the user's sees them.
    """

    def __init__(self, collate: Callable[[list[Any]], Any] | None) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[tuple[Any, float]]) -> Any:
        if self.collate is not None:
            items = [(sample, weight) for sample, weight in items if sample is not None]
            if not items:
                raise ValueError(
                    "every sample of a batch is None: leave unreadable samples out of the "
                    "selection, or take a larger batch_size"
                )
        batch = (self.collate or default_collate)([sample for sample, _ in items])
        weights = torch.tensor([weight for _, weight in items], dtype=torch.float32)
        return with_weights(batch, weights)


def with_weights(batch: Any, weights: Tensor) -> Any:
    """A batch with the weights of its samples, (B,) float32, at its end or under ``weights``.

    Raises:
        ValueError: it has not as many samples, or weights of its own.
    """
    found = _batch_length(batch)
    if found is not None and found != len(weights):
        raise ValueError(
            f"collate_fn made a batch of {found} out of {len(weights)} samples, so that their "
            "weights cannot be assigned: return None from the data set for a sample to leave "
            "out, and keep the others"
        )
    if isinstance(batch, Mapping):
        if WEIGHTS in batch:
            raise ValueError(
                f"the batches have a key {WEIGHTS!r} of their own, under which the weights of the "
                "selection are given out: call it something else in the data set or in collate_fn"
            )
        return {**batch, WEIGHTS: weights}
    if isinstance(batch, tuple | list):
        return (*batch, weights)
    return (batch, weights)


def plain_arguments(dataset: Any, collate_fn: Any) -> tuple[Any, Any]:
    """What a SubsetLoader was built with, where a trainer reads it off one to build it anew."""
    if isinstance(dataset, _WeightedItems):
        dataset = dataset.dataset
    if isinstance(collate_fn, _WeightedCollate):
        collate_fn = collate_fn.collate
    return dataset, collate_fn


def _batch_length(batch: Any) -> int | None:
    """Samples in a batch, if it tells."""
    if isinstance(batch, Mapping):
        labels = batch.get("labels", batch.get("label"))
        values = [labels, *batch.values()]
    else:
        values = list(reversed(batch)) if isinstance(batch, tuple | list) else [batch]
    lengths = (len(one) for one in values if isinstance(one, Tensor) and one.ndim > 0)
    return next(lengths, None)


class SelectionSampler(DistributedSampler[Key]):
    """The (index, weight) pairs of a selection, in a fresh order every epoch.

    It is a DistributedSampler, so that trainers which share out batches leave it as it is.

    Args:
        selection: what to walk through.
        shuffle: whether the order changes from epoch to epoch.
        seed: seed of the orders; the same on every rank.
        num_replicas: processes that share the epoch: each takes every ``num_replicas``-th entry;
            None asks the process group at every epoch, or is 1 without one. All take equally many
            steps, and yet no sample counts twice: where the selection does not divide, a rank
            that is one short begins with a sample of weight 0.
        rank: which of them this is; None asks too.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        shuffle: bool = True,
        seed: int = 0,
        num_replicas: int | None = 1,
        rank: int | None = 0,
    ) -> None:
        # Not DistributedSampler's: it wants a process group at once, and pads with repeats.
        self.shuffle, self.seed = shuffle, seed
        self._asked = num_replicas, rank
        self._check_rank()
        self.epoch = 0
        self.skip = 0
        self.reselect(selection)

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Processes that share the epoch."""
        if self._asked[0] is not None:
            return self._asked[0]
        return dist.get_world_size() if _joined() else 1

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which of them this is."""
        if self._asked[1] is not None:
            return self._asked[1]
        return dist.get_rank() if _joined() and self.num_replicas > 1 else 0

    def _check_rank(self) -> None:
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(
                f"expected a rank in [0, num_replicas), received {self.rank} of {self.num_replicas}"
            )

    def reselect(self, selection: Selection) -> None:
        """Walk through another selection from the next epoch on."""
        if len(selection) == 0:
            raise ValueError("expected a selection of at least one sample, received an empty one")
        self.selection = selection

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        self._check_rank()  # a process group may have come since
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
        yield from zip(indices[start:], weights[start:], strict=True)

    def __len__(self) -> int:
        return -(-len(self.selection) // self.num_replicas)


class SubsetLoader(DataLoader[Any]):
    """A DataLoader over a selection that yields ``(x, y, weights)``, or dicts with ``weights``.

    The weights follow `Selection`: average ``weights * loss`` over a batch. Nothing is copied:
    the data set is read at the selected indices. The order comes from an explicit generator,
    so equal seeds give equal epochs, with any number of workers. Every ``iter`` is a new epoch in
    a fresh order, whether the one before was read to its end or not.

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
        collate_fn: collates the samples; the weights are added to what it returns. Items that are
            None are left out with their weights; a batch of another size is an error.
        **loader_options: passed to DataLoader, such as ``num_workers``, ``drop_last``. A
            SequentialSampler as ``sampler`` means ``shuffle=False``, so that trainers which build
            the loader anew to have the same batches in every epoch, as Lightning does for
            ``overfit_batches``, get the selection in its own order, with its weights.

    Raises:
        ValueError: a selection that is empty or points outside the data set; an option that
            would replace the selection's order. Raised at the first batch: dicts that have
            ``weights`` of their own, and batches of another size than their samples.

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
        if isinstance(loader_options.get("sampler"), SequentialSampler):
            shuffle = False
            for option in ("sampler", "generator"):
                loader_options.pop(option, None)
            dataset, collate_fn = plain_arguments(dataset, collate_fn)
        for option in ("sampler", "batch_sampler", "generator"):
            if loader_options.pop(option, None) is not None:
                raise ValueError(
                    f"SubsetLoader draws its own order: leave {option!r} out, and use seed=, "
                    "num_replicas= and rank=. Where a trainer replaces it, as Lightning's predict "
                    "does, give the trainer a DataLoader of Subset(dataset, selection.indices)"
                )
        if batch_size is None or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(
                f"batch_size must be at least 1, received {batch_size!r}: single samples have no "
                "batch whose weights could be averaged"
            )
        _check_range(selection, dataset)
        self._source = dataset
        self._current = self._next = (0, 0)
        """Epoch and samples of this rank taken from it: of the epoch that runs, and of the next
        ``iter``."""
        super().__init__(
            _WeightedItems(dataset),
            batch_size=batch_size,
            sampler=SelectionSampler(
                selection, shuffle=shuffle, seed=seed, num_replicas=num_replicas, rank=rank
            ),
            collate_fn=_WeightedCollate(collate_fn),
            # Seeds of the data workers; without it every epoch draws from the global state.
            generator=generator(seed, "subset-loader", "workers"),
            **loader_options,
        )
        # Lightning builds a loader anew from attributes named like the arguments.
        vars(self).update(selection=selection, seed=seed, num_replicas=num_replicas, rank=rank)

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
        vars(self).update(selection=selection)
        self._current = self._next = (self._next[0], 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; without it epochs count up by themselves."""
        self._current = self._next = (epoch, 0)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch, taken = self._current = self._next
        self._next = (epoch + 1, 0)
        self._order.set_epoch(epoch)
        self._order.skip = taken
        size, whole = cast(int, self.batch_size), len(self._order)
        with nothing_left_open(self._source) if self.num_workers == 0 else nullcontext():
            for batch in super().__iter__():
                taken = min(taken + size, whole)
                if self._current[0] == epoch:  # else another iter has begun
                    self._current = (epoch, taken)
                yield batch
        if self._current[0] == epoch:
            self._current = self._next

    def state_dict(self) -> dict[str, Any]:
        """The selection, the epoch, and how many of its samples this rank has taken."""
        epoch, taken = self._current
        left = len(self._order) - taken
        if left <= 0 or (self.drop_last and left < cast(int, self.batch_size)):
            epoch, taken = epoch + 1, 0
        return {
            "indices": self.selection.indices.clone(),
            "weights": self.selection.weights.clone(),
            "name": self.selection.name,
            "epoch": epoch,
            "samples": taken,
            "seed": self._order.seed,
            "shuffle": self._order.shuffle,
            "num_replicas": self._order.num_replicas,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, within an epoch too, with any batch size.

        Raises:
            ValueError: a state of something else, or of another data set; within an epoch, one of
                another number of ranks or another ``shuffle``, which cannot be continued exactly.
        """
        keys = {"indices", "weights", "name", "epoch", "samples", "seed", "shuffle", "num_replicas"}
        if missing := keys - set(state):
            raise ValueError(
                f"expected the state of a SubsetLoader of this version, it lacks {sorted(missing)}"
            )
        epoch, taken = int(state["epoch"]), int(state["samples"])
        for name in ("shuffle", "num_replicas"):
            mine = getattr(self._order, name)
            if taken and state[name] != mine:
                raise ValueError(
                    f"the state was taken within an epoch with {name}={state[name]}, and this "
                    f"loader has {mine}: samples would be lost or read twice. Resume with "
                    f"{name}={state[name]}, or save between two epochs"
                )
        self.reselect(Selection(state["indices"], state["weights"], name=state["name"]))
        self._current = self._next = (epoch, taken)
        self._order.seed = int(state["seed"])


def broadcast_selection(selection: Selection | None, *, src: int = 0) -> Selection:
    """The selection of one process, on all of them: select on rank 0, train everywhere.

    Args:
        selection: the selection on rank ``src``; ignored elsewhere, may be None.
        src: the rank that selected.

    Returns:
        The same selection on every rank. Without a process group, the one given.

    Raises:
        ValueError: rank ``src`` has none, or its ``info`` holds what a message cannot carry.
    """
    if _joined():
        selection = _received(selection if dist.get_rank() == src else None, src)
    if selection is None:
        raise ValueError(f"expected a selection on rank {src}, received None")
    return selection


def _received(selection: Selection | None, src: int) -> Selection | None:
    """What rank ``src`` sends: plain values and tensors, in which nothing is executed."""
    said = b""
    if dist.get_rank() == src:
        try:
            said = encode(selection)
        except ValueError as error:  # the others wait, and must hear it too
            said = encode(str(error))
    here = resolve_device("auto")
    direct = exchange_backend(here) in str(dist.get_backend())
    channel = here if direct else torch.device("cpu")
    length = torch.tensor([len(said)], device=channel)
    dist.broadcast(length, src=src)
    buffer = torch.zeros(int(length), dtype=torch.uint8, device=channel)
    if said:
        buffer.copy_(torch.frombuffer(bytearray(said), dtype=torch.uint8))
    dist.broadcast(buffer, src=src)
    received = decode(buffer.cpu().numpy().tobytes())
    if not isinstance(received, Selection | None):
        raise ValueError(f"rank {src} cannot send its selection: {received}")
    return received


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


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
