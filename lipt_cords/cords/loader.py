"""A plugged-in loader of CORDS: when and how it starts warm, who selects, and what stays."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lipt_cords.base.devices import numbered_device
from lipt_cords.cords.checks import check_subset
from lipt_cords.cords.importing import kept_settings
from lipt_cords.cords.own_loader import FastSelector, with_dicts
from lipt_cords.data.batches import forgettable
from lipt_cords.data.open_files import nothing_left_open
from lipt_cords.selectors.report import SelectionReport
from lipt_cords.warmstart.config import WarmStartConfig

if TYPE_CHECKING:
    from lipt_cords.warmstart.report import WarmStartReport
    from lipt_cords.warmstart.result import WarmStartResult


def without(
    indices: Sequence[Any], weights: Any, forgotten: Iterable[int], owner: str
) -> tuple[list[int], Any]:
    """A selection without forgotten samples.

    Args:
        indices: of the selected samples.
        weights: one each: a tensor, an array or a list.
        forgotten: samples that must not be in it.
        owner: whose selection, for the error.

    Raises:
        ValueError: nothing else was selected.
    """
    gone = set(forgotten)
    stays = [place for place, index in enumerate(indices) if int(index) not in gone]
    if not stays:
        raise ValueError(
            f"{owner} selected forgotten samples alone: raise fraction, or build the loader on "
            "data without them"
        )
    if len(stays) == len(indices):
        return list(indices), weights
    kept = [int(indices[place]) for place in stays]
    if isinstance(weights, list):
        return kept, [weights[place] for place in stays]
    return kept, weights[torch.tensor(stays) if isinstance(weights, Tensor) else stays]


log = logging.getLogger(__name__)


@dataclass
class PendingWarmStart:
    """What a loader needs for its warm start, read off ``dss_args`` when it was built."""

    config: WarmStartConfig
    model: nn.Module
    loss: Any
    num_classes: int | None
    note: str | None
    """What was ignored because of the warm start."""
    fitted: WarmStartResult | None = None
    """A warm start that was fitted before, to be used in place of a new one."""


class PluggedIn:
    """What the plug-in adds to a loader of CORDS: guarded selection, and the warm start if asked.

    The warm start runs once, before the first epoch: at the first ``iter(loader)`` or
    ``len(loader)``, or in :meth:`warm_start`. It never hides in the constructor.
    """

    warm_start_report: WarmStartReport | None = None
    """What the warm start cost; None before it ran, and on loaders without one."""
    warm_start_result: WarmStartResult | None = None
    """The merged model and its report; None before it ran, and on loaders without one."""
    selection_report: SelectionReport | None = None
    """The latest selection by one of our selectors; None before one, and with CORDS's own."""
    _pending_warm_start: PendingWarmStart | None = None
    _fast_selector: FastSelector | None = None
    forgotten: frozenset[int] = frozenset()
    """Samples that :meth:`forget` has removed."""
    _dict_samples = False
    _first_epoch = 0

    # Of CORDS's loaders; declared here for the type checker alone.
    if TYPE_CHECKING:
        train_loader: Any
        val_loader: Any
        subset_loader: Any
        subset_indices: Any
        subset_weights: Any
        wtdataloader: Any
        train_model: nn.Module
        budget: int
        logger: Any
        cur_epoch: int
        select_every: int
        resample: Callable[[], None]

    def warm_start(self) -> WarmStartReport | None:
        """Run the warm start and select the first subset with it, unless that is done.

        The merged weights are loaded in place, so an optimizer built before keeps working; with
        ``start_from: initial`` they serve the selection alone. ``cur_epoch`` is not touched.

        Returns:
            What it cost; None for a loader without ``warm_start``.
        """
        plan = self._pending_warm_start
        if plan is None or self.warm_start_result is not None:
            return self.warm_start_report
        result = plan.fitted or self._fitted(plan)
        self._select_with(plan, result)
        if plan.note:
            if plan.fitted is not None:  # others may share it
                result = replace(result, report=copy.deepcopy(result.report))
            result.report.notes.append(plan.note)
        self.warm_start_result, self.warm_start_report = result, result.report
        self.logger.info(
            "LiPT warm start: %d sample-passes, %d on the critical path; first subset selected",
            result.report.passes,
            result.report.critical_path_passes,
        )
        return self.warm_start_report

    def forget(self, indices: Any) -> list[str]:
        """Take samples out of the subset, out of all later ones, and out of the warm start.

        The warm start forgets as :meth:`WarmStartResult.forget` does, which needs
        ``keep_workers`` and one round. Before the first epoch its new weights go into the model,
        and the subset is selected again; later the subset loses the samples, and the model stays
        as it is. Later selections are among the others.

        Args:
            indices: of samples of the training set, or a mask.

        Returns:
            Where traces of them remain, in words.

        Raises:
            ValueError: samples outside of the data, named or forgotten twice; a warm start that
                has not run, or that cannot forget; a subset that would be empty.
        """
        gone = forgettable(indices, len(self.train_loader.dataset), self.forgotten)
        plan, result, owner = self._pending_warm_start, self.warm_start_result, type(self).__name__
        if plan is not None and result is None:
            raise ValueError(
                "the warm start has not run yet, and would train on these samples: build the "
                "loader on data without them, or call loader.warm_start() first"
            )
        everyone = self.forgotten.union(gone)
        epochs = self.cur_epoch - self._first_epoch
        fresh = epochs <= 0 and plan is not None
        uncovered: list[str] = []
        if result is not None:
            changed = result.forget(gone)
            uncovered += changed.unlearning.uncovered if changed.unlearning is not None else []
        if not fresh:
            kept = without(self.subset_indices, self.subset_weights, everyone, owner)
            if epochs > 0:
                uncovered.append(
                    f"the model was trained on subsets that may have held them ({epochs} epochs so "
                    "far): train it anew"
                )
        if self._fast_selector is None:
            uncovered.append(
                "CORDS's own strategy reads all samples, so that forgotten ones influence what it "
                "selects, though it does not select them: selector='fast' reads the others alone"
            )
        self.forgotten = everyone
        if result is not None:
            self.warm_start_result, self.warm_start_report = changed, changed.report
        if fresh and plan is not None:
            self._select_with(plan, changed)
        else:
            self.subset_indices, self.subset_weights = kept
            self._refresh_subset_loader()
        return uncovered

    def _select_with(self, plan: PendingWarmStart, result: WarmStartResult) -> None:
        """Select the first subset by a warm start; its weights stay in the model, or do not."""
        initial = None
        if plan.config.start_from == "initial":
            initial = copy.deepcopy(plan.model.state_dict())
        result.apply_to(plan.model)
        if "selected_idxs" in vars(self):  # CORDS's main counts the samples that were trained on
            vars(self).update(selected_idxs={}, selection_count=0)
        try:
            self.resample()
        finally:
            if initial is not None:
                plan.model.load_state_dict(initial)

    def _fitted(self, plan: PendingWarmStart) -> WarmStartResult:
        from lipt_cords.warmstart.warm_start import LiPTWarmStart

        has_validation = self.val_loader is not self.train_loader
        return LiPTWarmStart(plan.config).fit(
            plan.model,
            self.train_loader.dataset,
            self.val_loader.dataset if has_validation else None,
            loss=plan.loss,
            num_classes=plan.num_classes,
        )

    def __iter__(self) -> Iterator[Any]:
        self.warm_start()
        skipped = self._first_epoch == 0 and self.cur_epoch == 1 and self.select_every == 1
        if skipped and self._pending_warm_start is not None:
            # CORDS's main never selects in its second epoch, even if asked to in every epoch.
            self.resample()
        batches: Iterator[Any] = super().__iter__()  # type: ignore[misc]
        return batches

    def __len__(self) -> int:
        if self._pending_warm_start is None:
            return int(super().__len__())  # type: ignore[misc]
        self.warm_start()
        return len(self.subset_loader)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the class that was asked for: the derived class has no import path."""
        for asked_for, derived in _CLASSES.items():
            if derived is type(self):
                return plugged_in, (asked_for,), vars(self)
        return super().__reduce_ex__(protocol)

    def _refresh_subset_loader(self) -> None:
        super()._refresh_subset_loader()  # type: ignore[misc]
        if self._dict_samples:
            with_dicts(self.subset_loader)

    def _resample_subset_indices(self) -> tuple[Any, Any]:
        if self._fast_selector is not None:
            return self._select_fast(self._fast_selector)
        owner = type(self).__name__
        # CORDS asks numpy to raise on underflow, which a nearly converged model brings about.
        datasets = self.train_loader.dataset, self.val_loader.dataset
        with kept_settings(), np.errstate(all="ignore"), nothing_left_open(*datasets):
            indices, weights = super()._resample_subset_indices()  # type: ignore[misc]
        weights = check_subset(indices, weights, owner)
        if self.forgotten:
            return without(indices, weights, self.forgotten, owner)
        return indices, weights

    def _select_fast(self, plan: FastSelector) -> tuple[list[int], Tensor]:
        indices, weights, report = plan.select(
            self.train_model,
            self.train_loader,
            self.val_loader,
            self.budget,
            self.cur_epoch,
            self.forgotten,
        )
        self.selection_report = report
        self.logger.info(
            "Epoch: %d, %s selected %d of %d samples in %.3f s (%.3f s of them for gradients)",
            self.cur_epoch,
            report.strategy,
            report.budget,
            report.pool,
            report.seconds,
            report.gradient_seconds,
        )
        return indices, weights


_CLASSES: dict[type, type] = {}


def plugged_in(cls: type) -> Any:
    """An empty object of the class derived from a loader's, made once for each."""
    if not issubclass(cls, PluggedIn):
        if cls not in _CLASSES:
            names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
            _CLASSES[cls] = type(cls.__name__, (PluggedIn, cls), names)
        cls = _CLASSES[cls]
    return object.__new__(cls)


def given_warm_start(dss_args: Any) -> Any:
    """What stands under the key ``warm_start``; None without the key."""
    given = isinstance(dss_args, Mapping) and "warm_start" in dss_args.keys()  # noqa: SIM118
    return dss_args["warm_start"] if given else None


def parse_warm_start(dss_args: Any) -> WarmStartConfig | None:
    """The options under the key ``warm_start``, parsed; None without a warm start."""
    value = given_warm_start(dss_args)
    if value is None:
        return None
    fitted = fitted_warm_start(dss_args)
    return WarmStartConfig.parse(value) if fitted is None else fitted.config


def fitted_warm_start(dss_args: Any) -> WarmStartResult | None:
    """A finished warm start given as the key ``warm_start``, which many loaders can share."""
    from lipt_cords.warmstart.result import WarmStartResult

    value = dss_args["warm_start"]
    return value if isinstance(value, WarmStartResult) else None


def pending_warm_start(
    cls: type, config: WarmStartConfig, dss_args: Any, logger: Any
) -> PendingWarmStart:
    keys = set(dss_args.keys())
    model = dss_args["model"] if "model" in keys else None
    if "MILODataLoader" in {base.__name__ for base in cls.__mro__}:
        raise ValueError("MILODataLoader selects without a model: take warm_start out of dss_args")
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"warm_start needs the model to start warm, but dss_args of {cls.__name__} has "
            f"{'no model' if model is None else type(model).__name__ + ' as model'}: set "
            "dss_args.model to the network, and dss_args.loss to its loss"
        )
    if "device" not in config.model_fields_set:
        device = dss_args["device"]
        device = numbered_device(device) if isinstance(device, int) else str(device)
        config = config.model_copy(update={"device": device})
    note = None
    if dss_args["kappa"] > 0:
        note = f"kappa={dss_args['kappa']} was ignored: the warm start replaces full-data epochs"
        (logger or log).warning("warm_start: %s", note)
    return PendingWarmStart(
        config=config,
        model=model,
        loss=dss_args["loss"] if "loss" in keys else None,
        num_classes=int(dss_args["num_classes"]) if "num_classes" in keys else None,
        note=note,
        fitted=fitted_warm_start(dss_args),
    )


def without_kappa(dss_args: Any) -> Any:
    """A shallow copy with kappa 0; the user's own is left as it is."""
    copied = type(dss_args)()
    for key in dss_args.keys():  # noqa: SIM118
        copied[key] = dss_args[key]
    copied["kappa"] = 0
    return copied
