"""What an epoch reads through one of CORDS's adaptive loaders, with what its selections cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lipt_cords.selectors.base import Selection
from lipt_cords.training.ledger import FULL, SKIPPED, SUBSET
from lipt_cords.training.sources import Epoch, without_single_last


class CordsSource:
    """One of CORDS's adaptive loaders, watched: it selects while an epoch is opened.

    Args:
        loader: the loader. Its ``resample`` is timed from here on.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.seconds = 0.0
        """Seconds spent in selections so far."""
        self.gradient_seconds = 0.0
        """Of these, seconds of reading gradients: CORDS's CRAIG does not report them."""
        self.count = 0
        """Selections so far."""
        self._reported = -1
        resample = loader.resample
        strategy = getattr(loader, "strategy", None)
        compute = getattr(strategy, "compute_gradients", None)

        def timed() -> None:
            started = time.perf_counter()
            resample()
            self.seconds += time.perf_counter() - started
            self.count += 1
            report = getattr(loader, "selection_report", None)
            if report is not None:
                self.gradient_seconds += report.gradient_seconds

        def timed_gradients(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return compute(*args, **kwargs)  # type: ignore[misc]
            finally:
                self.gradient_seconds += time.perf_counter() - started

        loader.resample = timed
        if compute is not None:
            vars(strategy)["compute_gradients"] = timed_gradients

    def open(self, epoch: int) -> Epoch:
        seconds, gradients, count = self.seconds, self.gradient_seconds, self.count
        batches = iter(self._loader)
        kind, steps = FULL if epoch < self._loader.warmup_epochs else SUBSET, len(batches)
        if kind == SUBSET and steps == 0:
            kind = SKIPPED
        if kind != SKIPPED:
            part = "wtdataloader" if kind == FULL else "subset_loader"
            loader = vars(self._loader).get(part)
            if isinstance(loader, DataLoader):
                batches, steps = without_single_last(loader, batches)
        chosen = None
        report = getattr(self._loader, "selection_report", None)
        if kind == SUBSET and self._reported != self.count:
            self._reported = self.count
            chosen = Selection(
                torch.as_tensor(np.asarray(self._loader.subset_indices)).flatten().long(),
                torch.as_tensor(np.asarray(self._loader.subset_weights)).flatten().float(),
            )
        return Epoch(
            kind,
            batches,
            steps,
            self.seconds - seconds,
            selections=self.count - count,
            gradient_seconds=self.gradient_seconds - gradients,
            chosen=chosen,
            accuracies=(None, None)
            if report is None
            else (report.subset_accuracy, report.pool_accuracy),
        )

    def state_dict(self) -> dict[str, Any]:
        loader = self._loader
        chosen: dict[int, Any] = getattr(loader, "__dict__", {}).get("selected_idxs", {})
        return {
            "indices": _packed(loader.subset_indices),
            "weights": _packed(loader.subset_weights),
            "cur_epoch": loader.cur_epoch,
            "selection_count": loader.__dict__.get("selection_count"),
            "selected_idxs": {int(key): _packed(value) for key, value in chosen.items()},
            "initialized": loader.__dict__.get("initialized"),
            "told": self._reported - self.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        loader = self._loader
        loader.subset_indices = _unpacked(state["indices"])
        loader.subset_weights = _unpacked(state["weights"])
        loader._refresh_subset_loader()
        loader.cur_epoch = state["cur_epoch"]
        loader.initialized = state["initialized"]
        self._reported = self.count + state["told"]
        if state["selection_count"] is not None:
            loader.selection_count = state["selection_count"]
            loader.selected_idxs = {
                key: _unpacked(value) for key, value in state["selected_idxs"].items()
            }


def _packed(values: Any) -> list[Any]:
    """[form, tensor]: CORDS keeps subsets in four forms, which round and collate differently."""
    if isinstance(values, Tensor):
        return ["tensor", values.detach().cpu().clone()]
    if isinstance(values, np.ndarray):
        return ["array", torch.from_numpy(values.copy())]
    python = all(type(value) in (int, float) for value in values)
    return ["list" if python else "scalars", torch.from_numpy(np.asarray(values))]


def _unpacked(packed: list[Any]) -> Any:
    form, tensor = packed
    forms: dict[str, Callable[[], Any]] = {
        "tensor": lambda: tensor,
        "array": tensor.numpy,
        "list": tensor.tolist,
        "scalars": lambda: list(tensor.numpy()),
    }
    return forms[form]()
