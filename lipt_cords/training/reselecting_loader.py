"""A DataLoader over a subset that it chooses anew every few epochs, for any training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from lipt_cords.data.collated import CollateFunction
from lipt_cords.selectors.base import Selection
from lipt_cords.selectors.loader import SubsetLoader, plain_arguments
from lipt_cords.training.reselect import Reselect, pool_of

OF_THE_LOADER = ("num_workers", "pin_memory", "drop_last", "timeout", "worker_init_fn")
"""Options that are taken over from a DataLoader in place of a data set."""


class ReselectingLoader(SubsetLoader):
    """A :class:`lipt_cords.SubsetLoader` that chooses its subset itself, by the model as it is.

    The subset is chosen when an epoch begins: the first, and then every ``every``-th. Batches are
    ``(x, y, weights)``, or dicts with ``weights``: average ``weights * loss``. Equal seeds and
    models give equal epochs. ``state_dict`` and ``load_state_dict`` continue within an epoch too,
    with the same subset.

    In a process group rank 0 chooses, and every process reads its part: do not let accelerate
    prepare it. Training on ranks waits as long as a pass over the pool takes.

    Args:
        dataset: the pool: a map-style data set, or a DataLoader of one, whose batch size,
            ``collate_fn`` and workers are taken where they are not given.
        budget: how many samples, or a fraction of them below 1, such as 0.1.
        model: that is trained; it ends in a linear layer. None: :meth:`bind` names it later.
        selector: a name that :func:`lipt_cords.select` knows.
        every: epochs between two selections.
        val_dataset: held-out samples, for selectors that use them, such as ``glister``.
        loss: of the training, as :func:`lipt_cords.last_layer_gradients` takes it.
        head: name of the linear head; None to find it.
        batch_size: samples a batch; None: the DataLoader's, or 128.
        seed: of the selections and the orders.
        collate_fn: makes batches of items, to select too; None stacks tensors.
        selector_options: of the selector.
        **loader_options: of :class:`lipt_cords.SubsetLoader`.

    Raises:
        ValueError: what :class:`lipt_cords.SubsetLoader` and the selector refuse; a DataLoader
            with a sampler of its own; an epoch without a model.

    >>> import torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(60, 4), torch.arange(60) % 3)
    >>> loader = ReselectingLoader(data, 0.2, nn.Linear(4, 3), every=2, batch_size=4)
    >>> len(loader), [tuple(x.shape) for x, y, weights in loader]
    (3, [(4, 4), (4, 4), (4, 4)])
    """

    def __init__(
        self,
        dataset: Dataset[Any] | DataLoader[Any],
        budget: int | float,
        model: nn.Module | None = None,
        *,
        selector: str = "importance",
        every: int = 1,
        val_dataset: Dataset[Any] | None = None,
        loss: Any = None,
        head: str | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        collate_fn: CollateFunction | None = None,
        selector_options: Mapping[str, Any] | None = None,
        **loader_options: Any,
    ) -> None:
        dataset, collate_fn = plain_arguments(dataset, collate_fn)
        given = dataset
        dataset, collate_fn = pool_of(given, collate_fn)
        if isinstance(given, DataLoader):
            batch_size = batch_size or given.batch_size
            for name in OF_THE_LOADER:
                loader_options.setdefault(name, getattr(given, name))
        options = dict(selector_options or {})
        policy = Reselect(
            dataset, budget, selector=selector, every=every, val_dataset=val_dataset, loss=loss,
            head=head, seed=seed, collate_fn=collate_fn, **options,
        )  # fmt: skip
        super().__init__(
            dataset, policy.placeholder(), batch_size=128 if batch_size is None else batch_size,
            seed=seed, collate_fn=collate_fn, **loader_options,
        )  # fmt: skip
        self._policy, self._chosen_in = policy, None
        # Lightning builds a loader anew from attributes named like the arguments.
        vars(self).update(
            budget=budget, model=model, selector=selector, every=every, val_dataset=val_dataset,
            loss=loss, head=head, selector_options=options,
        )  # fmt: skip

    _chosen_in: int | None
    """The epoch for which the present subset was chosen; None before the first."""

    def bind(self, model: nn.Module) -> None:
        """Choose by this model from now on."""
        vars(self)["model"] = model

    def reselect(self, selection: Selection) -> None:
        """Replace the subset now; the loader chooses again when that is due."""
        super().reselect(selection)
        self._chosen_in = self._next[0]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch, taken = self._next
        if taken == 0 and self._policy.due(epoch, self._chosen_in):
            model = vars(self)["model"]
            if not isinstance(model, nn.Module):
                raise ValueError(
                    "the loader chooses by a model: pass model=, or call bind(model) before the "
                    "first epoch"
                )
            self.reselect(self._policy.choose(model, epoch))
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """The subset, the epoch for which it was chosen, and how far this epoch has come."""
        return {**super().state_dict(), "chosen_in": self._chosen_in}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; the model is restored by its own state.

        Raises:
            ValueError: as for :class:`lipt_cords.SubsetLoader`; a subset of another size.
        """
        if "chosen_in" not in state:
            raise ValueError("expected the state of a ReselectingLoader, received another one's")
        if len(state["indices"]) != self._policy.budget:
            raise ValueError(
                f"the state holds a subset of {len(state['indices'])} samples, and this loader "
                f"chooses {self._policy.budget}: build it with the same budget and data"
            )
        super().load_state_dict({k: v for k, v in state.items() if k != "chosen_in"})
        self._chosen_in = state["chosen_in"]
