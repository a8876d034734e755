"""From a configuration to the parts of a run: device, warm start, and what each epoch reads.

The strategy decides who selects. GLISTER, GradMatch, CRAIG and Random go through CORDS's own
loader with the plug-in enabled; what CORDS 0.0.4 lacks, or everything where CORDS is not
installed, goes through our selectors on the same calendar.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipt_cords.base.devices import kinds_here, of_rank, pins_memory, resolve_device
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.factory import cords_loader
from lipt_cords.cords.importing import INSTALL_CORDS, cords_version
from lipt_cords.cords.patches import enabled
from lipt_cords.cords.source import CordsSource
from lipt_cords.cords.strategies import FULL, fact_of, selector_for
from lipt_cords.data.datasets import DataSplits
from lipt_cords.data.labels import labels_of
from lipt_cords.data.source import BatchSource
from lipt_cords.experiments.choose import (
    check_strategy,
    choose_by_labels,
    choose_by_scores,
    choose_subset,
    choose_untrained,
    chooses_untrained,
    dynamics_score_of,
    per_sample_loss,
    schedule_of,
    strategy_options,
)
from lipt_cords.experiments.pilot import pilot_of, pilot_share
from lipt_cords.models.flops import flops_per_sample
from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.models.heads import model_device
from lipt_cords.selectors.base import Selection, select, selector_names, selector_options
from lipt_cords.selectors.checks import check_budget
from lipt_cords.selectors.difficulty import difficulty
from lipt_cords.training.ledger import Ledger
from lipt_cords.training.sources import EpochSource, SelectorSource
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.report import WarmStartReport
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.warm_start import LiPTWarmStart


def full_data_flops(config: RunConfig, splits: DataSplits, model: nn.Module, epochs: int) -> float:
    """Floating-point operations of a full-data warm-up, counted on a small batch.

    Args:
        config: its loss.
        splits: its data.
        model: on its device.
        epochs: on full data.
    """
    if epochs == 0:
        return 0.0
    source = BatchSource(splits.train, range(min(8, len(splits.train))), device=model_device(model))  # type: ignore[arg-type]
    inputs, labels = next(source.batches(batch_size=8))
    loss = nn.CrossEntropyLoss(label_smoothing=config.loss.label_smoothing)
    step, _ = flops_per_sample(model, inputs, labels, loss)
    return float(step * epochs * len(splits.train))  # type: ignore[arg-type]


def charge(costs: Ledger, report: WarmStartReport) -> None:
    """Add a warm start's costs to a run's."""
    costs.warmup_passes += report.passes
    costs.warmup_critical_passes += report.critical_path_passes
    costs.warmup_seconds += report.seconds["total"]
    costs.warmup_critical_seconds += report.seconds["critical_path"]
    costs.warmup_bytes += report.bytes_communicated
    costs.warmup_flops += report.flops
    costs.warmup_critical_flops += report.critical_path_flops


logger = logging.getLogger(__name__)


cords_logger = logging.getLogger("lipt_cords.cords")


THROUGH_CORDS = ("GLISTER", "GradMatch", "CRAIG", "Random")


@dataclass
class Assembled:
    """What an epoch reads, and what was spent before the first one."""

    source: EpochSource
    costs: Ledger = field(default_factory=Ledger)
    report: WarmStartReport | None = None
    result: WarmStartResult | None = None
    notes: list[str] = field(default_factory=list)


def pick_device(name: str, notes: list[str]) -> torch.device:
    """The device of a run. ``cuda`` on a machine without it becomes the CPU, and says so.

    CORDS's examples all ask for ``cuda``; they should run anywhere. Whoever gives a number means
    that device. Under ``torchrun`` every process of a machine takes a GPU of its own.

    Raises:
        ValueError: a device with a number, or of another kind, that is not here.
    """
    if name == "cuda" and "cuda" not in kinds_here():
        note = f"train_args.device is {name!r} but torch sees no GPU: this run uses the CPU"
        logger.warning(note)
        notes.append(note)
        return torch.device("cpu")
    device = resolve_device(name)
    return of_rank(device, int(os.environ["LOCAL_RANK"])) if "LOCAL_RANK" in os.environ else device


def warm_start_options(config: RunConfig, device: torch.device) -> WarmStartConfig | None:
    """The options of a run's warm start: what the file says, with the run's seed and device."""
    given = config.dss_args.warm_start
    if given is None:
        return None
    of_run = {"seed": config.train_args.seed, "device": str(device)}
    missing = {name: value for name, value in of_run.items() if name not in given.model_fields_set}
    return given.model_copy(update=missing)


def fit_lipt(
    config: RunConfig, options: WarmStartConfig | None, splits: DataSplits, model: nn.Module
) -> WarmStartResult:
    """Fit a warm start alone, on a run's data and with its loss."""
    return LiPTWarmStart(options).fit(
        model,
        splits.train,
        splits.val,
        loss=per_sample_loss(config),
        num_classes=splits.num_classes,
    )


def subset_size_of(samples: int, config: RunConfig) -> int:
    """How many of that many training samples a subset has, rounded down as in CORDS."""
    return max(1, int(samples * config.dss_args.fraction))


def of_size(config: RunConfig, budget: int, samples: int) -> RunConfig:
    """The configuration of a subset of exactly that many of the training samples.

    >>> subset_size_of(2_523, of_size(RunConfig(), 150, 2_523))
    150

    Raises:
        ValueError: fewer than one sample, or more than there are.
    """
    check_budget(budget, samples)
    # In the middle between two sizes, as sizes are rounded down.
    return config.updated(dss_args={"fraction": min(1.0, (budget + 0.5) / samples)})


def uses_cords(config: RunConfig, notes: list[str]) -> bool:
    """Whether CORDS's own loader selects in this run.

    Raises:
        ValueError: the strategy needs CORDS and it is not installed, or CORDS lacks it.
    """
    dss = config.dss_args
    if dss.strategy not in THROUGH_CORDS:
        if dss.selector == "cords":
            raise ValueError(
                f"dss_args.selector is 'cords', but {dss.strategy} is ours: leave selector out"
            )
        return False
    if dss.selector is not None:
        return dss.selector == "cords"
    if cords_version() is not None:
        return True
    if selector_for(dss.strategy) not in selector_names():
        raise ValueError(
            f"{dss.strategy} runs through CORDS, which is not installed: {INSTALL_CORDS}"
        )
    notes.append(f"CORDS is not installed: {dss.strategy} is our own selector")
    return False


def check_selection(config: RunConfig, notes: list[str]) -> bool:
    """Refuse a strategy that cannot select, or its wrong options, before anything is computed.

    Args:
        config: the run.
        notes: what a reader must know is added.

    Returns:
        Whether CORDS's own loader selects.

    Raises:
        ValueError: what was expected, what came, and what to do.
    """
    dss = config.dss_args
    through_cords = uses_cords(config, notes)
    if dss.options and (through_cords or not _takes_options(dss.strategy)):
        raise ValueError(
            f"dss_args.options ({', '.join(dss.options)}) are for our selectors, and "
            f"{dss.strategy} does not take them: set dss_args.selector='fast' with "
            "GLISTER, GradMatch or CRAIG, or leave options out"
        )
    if through_cords:
        return True
    if "pilot" in dss.options:
        pilot_share(config)
    check_strategy(config)
    if fact_of(dss.strategy, "labels_only") and dss.selection_type not in (None, "PerClass"):
        notes.append(
            f"dss_args.selection_type={dss.selection_type} is ignored: {dss.strategy} draws per "
            "class"
        )
    return False


def _never_selects(config: RunConfig, through_cords: bool) -> list[str]:
    """What to say of a run that ends before its strategy has a trained model to select by."""
    dss, schedule = config.dss_args, schedule_of(config)
    needs_no_model = dss.strategy == FULL or fact_of(dss.strategy, "labels_only")
    if dss.warm_start is not None or needs_no_model or chooses_untrained(config):
        return []
    first = schedule.select_after
    if through_cords or first == 0:  # in an epoch that select_every divides, and not in epoch 0
        first = math.ceil(max(first, 1) / schedule.select_every) * schedule.select_every
    if first < schedule.num_epochs:
        return []
    return [
        f"{dss.strategy} selects nothing in {schedule.num_epochs} epochs, its subset is a random "
        f"one: without a warm start it selects first after {first} epochs. Set "
        "dss_args.warm_start=lipt, or a smaller dss_args.select_every"
    ]


def _takes_options(strategy: str) -> bool:
    return strategy != FULL and bool(set(selector_options(selector_for(strategy))) - {"epoch"})


def assemble(
    config: RunConfig,
    splits: DataSplits,
    model: nn.Module,
    *,
    resumed: bool = False,
    fitted: WarmStartResult | None = None,
) -> Assembled:
    """Run the warm start, if there is one, and build what the epochs read.

    Args:
        config: the run.
        splits: its data.
        model: on its device; a warm start loads its weights in place.
        resumed: whether a checkpoint will be loaded next: the warm start is then not repeated.
        fitted: the warm start, where it has run already; whether training begins with its
            weights is still decided by the configuration.

    Returns:
        The source, and the costs so far.
    """
    dss = config.dss_args
    notes: list[str] = []
    if dss.warm_start is not None and dss.kappa > 0:
        notes.append(
            f"dss_args.kappa={dss.kappa} is ignored: the warm start takes the place of CORDS's "
            "full-data epochs"
        )
    through_cords = check_selection(config, notes)
    notes += _never_selects(config, through_cords)
    build = _through_cords if through_cords else _through_selectors
    warm_start = None if resumed else warm_start_options(config, model_device(model))
    if warm_start is not None and fitted is not None:
        fitted = replace(fitted, config=warm_start)
    assembled = build(config, splits, model, warm_start, fitted)
    assembled.notes[:0] = notes
    if assembled.report is not None:
        charge(assembled.costs, assembled.report)
    return assembled


def _through_cords(
    config: RunConfig,
    splits: DataSplits,
    model: nn.Module,
    warm_start: WarmStartConfig | None,
    fitted: WarmStartResult | None,
) -> Assembled:
    dss, device = config.dss_args, model_device(model)
    batch_size = config.dataloader.batch_size
    schedule = schedule_of(config)
    arguments: dict[str, Any] = {
        "fraction": dss.fraction,
        "select_every": schedule.select_every,
        "kappa": schedule.kappa,
        "num_epochs": config.train_args.num_epochs,
        **strategy_options(config),
        "collate_fn": None,
        "model": model,
        "num_classes": splits.num_classes,
        "device": str(device),
        "warm_start": warm_start if warm_start is None or fitted is None else fitted,
    }
    pin = config.dataloader.pin_memory and pins_memory(device)
    with enabled():
        loader = cords_loader(
            dss.strategy,
            DataLoader(splits.train, batch_size=batch_size, shuffle=False),
            DataLoader(splits.val, batch_size=batch_size, shuffle=False),
            arguments,
            cords_logger,
            batch_size=batch_size,
            shuffle=config.dataloader.shuffle,
            pin_memory=pin,
        )
    source = CordsSource(loader)
    report = loader.warm_start()
    costs = Ledger(
        selection_seconds=source.seconds,
        gradient_seconds=source.gradient_seconds,
        selections=source.count,
    )
    return Assembled(source, costs, report, loader.warm_start_result)


def _through_selectors(
    config: RunConfig,
    splits: DataSplits,
    model: nn.Module,
    warm_start: WarmStartConfig | None,
    fitted: WarmStartResult | None,
) -> Assembled:
    dss, seed = config.dss_args, config.train_args.seed
    labels = labels_of(splits.train)
    budget = len(labels) if dss.strategy == FULL else subset_size_of(len(labels), config)
    schedule = schedule_of(config)
    if fact_of(dss.strategy, "keeps_scores"):
        if dss.warm_start is None and not schedule.select_after:
            raise ValueError(
                f"dss_args.type {dss.strategy!r} orders samples by a trained model: "
                "set dss_args.warm_start, or kappa for full-data epochs before it"
            )
        # A wrong value is named before the warm start runs.
        choose_by_scores(config, 1, torch.zeros(1).long(), torch.zeros(1), schedule.select_after)
    warm = None
    if warm_start is not None:
        warm = fitted or fit_lipt(config, warm_start, splits, model)
        if warm_start.start_from == "merged":
            warm.apply_to(model)

    device = model_device(model)

    @cache
    def sources() -> tuple[BatchSource, BatchSource]:
        """Read at the first selection, kept for the next ones."""
        return BatchSource(splits.train, device=device), BatchSource(splits.val, device=device)

    def read(data: BatchSource, epoch: int) -> LastLayerGradients:
        if epoch == 0 and warm is not None:
            return warm.gradients(data, model=model, loss=per_sample_loss(config))
        return last_layer_gradients(model, data, loss=per_sample_loss(config))

    logged = dynamics_score_of(config)

    def kept_scores(epoch: int) -> Tensor:
        """Computed at the first selection, and stored with the run."""
        if "difficulty" not in source.kept:
            if logged is not None and warm is not None:
                source.kept["difficulty"] = warm.dynamics.score(logged)
            else:
                score = dss.options.get("score", "loss")
                source.kept["difficulty"] = difficulty(read(sources()[0], epoch), score)
        return source.kept["difficulty"]

    def by_scores(epoch: int) -> Selection:
        return choose_by_scores(config, budget, labels, kept_scores(epoch), epoch)

    def by_gradients(epoch: int) -> Selection:
        trial = pilot_of(config, splits, model) if "pilot" in dss.options else None
        selection, report = choose_subset(
            config, budget, *sources(), partial(read, epoch=epoch), epoch=epoch, pilot=trial,
            scores=None if logged is None else kept_scores(epoch),
        )  # fmt: skip
        if report.warning:
            logger.warning("epoch %d: %s", epoch, report.warning)
        selection.info["gradient_seconds"] = report.gradient_seconds
        selection.info["gradient_bytes"] = report.gradient_bytes
        selection.info["accuracies"] = (report.subset_accuracy, report.pool_accuracy)
        return selection

    @cache
    def without_a_model() -> Selection:
        return choose_untrained(config, budget, splits.train, device)[0]

    def choose(epoch: int) -> Selection:
        if dss.strategy == FULL:
            return Selection(torch.arange(budget), torch.ones(budget), name="full")
        if fact_of(dss.strategy, "labels_only"):
            return choose_by_labels(config, budget, labels, epoch)
        if fact_of(dss.strategy, "keeps_scores"):
            return by_scores(epoch)
        if chooses_untrained(config):
            return without_a_model()
        # As in CORDS, an untrained model chooses nothing: its first epochs read a random subset.
        untrained = warm_start is None and schedule.select_after == 0
        if untrained and epoch < schedule.select_every:
            return select("random", labels, budget, seed=seed)
        return by_gradients(epoch)

    source = SelectorSource(
        splits.train,
        choose,
        schedule,
        batch_size=config.dataloader.batch_size,
        seed=seed,
        shuffle=config.dataloader.shuffle,
    )
    return Assembled(source, report=None if warm is None else warm.report, result=warm)
