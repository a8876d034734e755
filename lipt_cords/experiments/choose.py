"""From a configuration's strategy to one subset chosen by our selectors.

A run that selects in the course of its epochs and the command that selects once use the same
function, so that both choose the same subset.
"""

from __future__ import annotations

import time
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import derive_seed
from lipt_cords.base.registry import FOREIGN_NAME
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.own_options import KINDS, fast_options
from lipt_cords.cords.own_selection import PER, FastOptions, fast_selection
from lipt_cords.cords.strategies import FULL, fact_of, selector_for
from lipt_cords.data.source import BatchSource
from lipt_cords.selectors.base import (
    SELECTORS,
    Per,
    Selection,
    check_option_names,
    needs_validation,
    select,
)
from lipt_cords.selectors.choose import choose_subset as without_training
from lipt_cords.selectors.difficulty import SCORES
from lipt_cords.selectors.dynamics import DYNAMICS_SCORES
from lipt_cords.selectors.report import ReadGradients, SelectionReport, report_on
from lipt_cords.selectors.trials import Pilot
from lipt_cords.training.sources import SelectionSchedule


def schedule_of(config: RunConfig) -> SelectionSchedule:
    """CORDS's calendar of a run. A warm start takes the place of kappa's full-data epochs."""
    dss = config.dss_args
    return SelectionSchedule(
        num_epochs=config.train_args.num_epochs,
        kappa=0.0 if dss.warm_start is not None else dss.kappa,
        fraction=dss.fraction,
        select_every=1 if fact_of(dss.strategy, "fresh") else dss.select_every,
    )


def per_sample_loss(config: RunConfig) -> nn.CrossEntropyLoss:
    """The loss of every sample, shape (B,): what CORDS's loaders and the loop take."""
    return nn.CrossEntropyLoss(reduction="none", label_smoothing=config.loss.label_smoothing)


def strategy_options(config: RunConfig) -> dict[str, Any]:
    """The options that a strategy of CORDS takes, in CORDS's names."""
    dss = config.dss_args
    return {
        "linear_layer": dss.linear_layer,
        "selection_type": dss.selection_type,
        "greedy": dss.greedy,
        "r": dss.r,
        "eta": dss.eta or config.optimizer.head_lr,
        "valid": dss.valid,
        "v1": dss.v1,
        "lam": dss.lam,
        "eps": dss.eps,
        "optimizer": dss.optimizer,
        "if_convex": dss.if_convex,
        "loss": per_sample_loss(config),
    }


def fast_options_of(config: RunConfig) -> FastOptions:
    """The checked options of GLISTER, GradMatch or CRAIG by our selectors.

    Raises:
        ValueError: an option out of range, or one that the strategy lacks.
    """
    dss = config.dss_args
    return fast_options(
        dss.strategy,
        strategy_options(config),
        config.dataloader.batch_size,
        seed=config.train_args.seed,
        extra=dss.options,
    )


def per_of(config: RunConfig) -> Per:
    """Where our own strategies choose, by CORDS's name of it: in each class by default.

    Raises:
        ValueError: an unknown ``selection_type``.
    """
    kind = config.dss_args.selection_type or "PerClass"
    if kind not in PER:
        raise unknown_name(f"selection_type of {config.dss_args.strategy}", kind, PER)
    return cast(Per, PER[kind])


DECIDED = (
    "name", "gradients", "budget", "val_gradients", "per", "seed", "batch_size", "linear_layer",
    "memory_limit",
)  # fmt: skip
"""Arguments of `select` that a run decides."""


def own_options(config: RunConfig, *more: str) -> dict[str, Any]:
    """The options of our selectors in a configuration.

    Raises:
        ValueError: one that the run itself decides.
    """
    options = dict(config.dss_args.options)
    for name in (*DECIDED, *more):
        if name in options:
            raise ValueError(
                f"dss_args.options.{name} is decided by the run: leave it out (fraction, "
                "selection_type, linear_layer, dataloader.batch_size and train_args.seed say it)"
            )
    return options


def check_strategy(config: RunConfig) -> None:
    """Refuse wrong options of a strategy before anything is computed.

    Raises:
        ValueError: an option that the selector lacks or the run decides, an unknown
            ``selection_type`` or score, a score of a warm start that does not log its samples.
    """
    strategy = config.dss_args.strategy
    if strategy == FULL:
        return
    if strategy in KINDS:
        fast_options_of(config)
        return
    options = own_options(config)
    check_option_names(selector_for(strategy), options)
    if "score" in options:
        _check_score(config, options["score"])
    per_of(config)


def _check_score(config: RunConfig, score: Any) -> None:
    if score in SCORES:
        return
    if score not in DYNAMICS_SCORES:
        known = (*SCORES.names(), *DYNAMICS_SCORES.names())
        raise ValueError(f"{unknown_name('difficulty score', score, known)} {FOREIGN_NAME}")
    warm_start = config.dss_args.warm_start
    if warm_start is None or not warm_start.log_samples:
        raise ValueError(
            f"dss_args.options.score {score!r} reads what the workers of a warm start saw of their "
            "samples: set dss_args.warm_start={'type': 'lipt', 'log_samples': True}, or take a "
            f"score of the merged model: {', '.join(SCORES.names())}"
        )


def dynamics_score_of(config: RunConfig) -> str | None:
    """The score of training dynamics that ``dss_args.options`` ask for, or None."""
    score = config.dss_args.options.get("score")
    return score if score in DYNAMICS_SCORES and score not in SCORES else None


def options_of_epoch(config: RunConfig, selector: str, epoch: int) -> dict[str, Any]:
    """The options ``epoch`` and ``epochs`` of a selector that has them.

    Args:
        config: says how many epochs there are.
        selector: a registered name.
        epoch: of the run, from 0. Where the selector has ``epochs``, both count the epochs on
            subsets alone.
    """
    takes = SELECTORS.options(selector)
    given = {"epoch": epoch}
    if "epochs" in takes:
        schedule = schedule_of(config)
        given = {
            "epoch": max(0, epoch - schedule.select_after),
            "epochs": schedule.subset_epochs,
        }
    return {name: value for name, value in given.items() if name in takes}


def choose_by_labels(config: RunConfig, budget: int, labels: Tensor, epoch: int) -> Selection:
    """The subset of one epoch by a selector to which labels suffice.

    As in CORDS's random loaders, ``selection_type`` is ignored: the draw is per class.

    Args:
        config: its strategy is such a selector.
        budget: samples to choose.
        labels: of the pool, (N,).
        epoch: of the run, from 0.
    """
    selector = selector_for(config.dss_args.strategy)
    return select(
        selector, labels, budget, seed=config.train_args.seed,
        **{**options_of_epoch(config, selector, epoch), **own_options(config)},
    )  # fmt: skip


def choose_by_scores(
    config: RunConfig, budget: int, labels: Tensor, scores: Tensor, epoch: int
) -> Selection:
    """The subset of one epoch by difficulties that stay the same in all of them.

    Args:
        config: its ``dss_args.options`` are the selector's.
        budget: samples to choose.
        labels: of the pool, (N,).
        scores: difficulties of the pool, (N,): the same ones in every epoch.
        epoch: of the run, from 0.
    """
    selector = selector_for(config.dss_args.strategy)
    options = own_options(config, "scores", "epoch", "epochs")
    options.pop("score", None)
    return select(
        selector, labels, budget, per=per_of(config), seed=config.train_args.seed,
        batch_size=config.dataloader.batch_size, scores=scores,
        **options_of_epoch(config, selector, epoch), **options,
    )  # fmt: skip


def chooses_untrained(config: RunConfig) -> bool:
    """Whether the strategy needs no trained model, and the configuration trains none before it."""
    dss = config.dss_args
    trained = dss.warm_start is not None or schedule_of(config).select_after > 0
    return not trained and fact_of(dss.strategy, "untrained")


def choose_untrained(
    config: RunConfig, budget: int, dataset: Dataset[Any], device: torch.device
) -> tuple[Selection, SelectionReport]:
    """Choose a subset by features of the samples, without any model.

    Args:
        config: ``dss_args.options`` are those of the selector; ``features`` names a kind.
        budget: samples to choose.
        dataset: the pool.
        device: where features are computed.

    Returns:
        The selection and its report, which has no accuracies.
    """
    dss = config.dss_args
    options = own_options(config, "scores", "pilot")
    options.pop("score", None)
    chosen = without_training(
        dataset, budget, per=per_of(config), seed=config.train_args.seed, device=device, **options
    )
    report = SelectionReport(
        strategy=dss.strategy,
        selection_type=dss.selection_type or "PerClass",
        epoch=0,
        budget=len(chosen),
        pool=len(dataset),  # type: ignore[arg-type]
        gradient_seconds=0.0,
        selection_seconds=chosen.seconds,
        gradient_bytes=0,
        subset_accuracy=None,
        pool_accuracy=None,
        warning=chosen.info.get("warning"),
        info=chosen.info,
    )
    return chosen, report


def choose_subset(
    config: RunConfig,
    budget: int,
    train: BatchSource,
    val: BatchSource,
    read: ReadGradients,
    *,
    epoch: int = 0,
    pilot: Pilot | None = None,
    scores: Tensor | None = None,
) -> tuple[Selection, SelectionReport]:
    """Choose a subset as the configuration's strategy asks.

    Args:
        config: its ``dss_args`` say how; draws come from its seed.
        budget: samples to choose.
        train: the pool.
        val: the validation set.
        read: last-layer gradients of a source, by the model that selects.
        epoch: when; the draws of two epochs are independent.
        pilot: trains on a candidate subset, where ``dss_args.options`` has a ``pilot``.
        scores: difficulties of the pool, (N,), in place of the option ``score``; None: that option.

    Returns:
        The selection and its report.

    Raises:
        ValueError: a strategy without a subset, or whatever the selector refuses.
    """
    dss = config.dss_args
    if dss.strategy in KINDS:
        return fast_selection(fast_options_of(config), budget, train, val, read, epoch=epoch)
    name = selector_for(dss.strategy)
    options = {**options_of_epoch(config, name, epoch), **own_options(config)}
    if fact_of(dss.strategy, "untrained"):
        options.pop("features", None)  # a kind for runs without a model; here embeddings are
    started = time.perf_counter()
    pool = read(train)
    validation = read(val) if needs_validation(name, options) else None
    gradient_seconds = time.perf_counter() - started
    if options.pop("pilot", None) is not None:
        options["pilot"] = pilot
    if scores is not None:
        options.pop("score", None)
        options["scores"] = scores
    seed = config.train_args.seed
    if not fact_of(dss.strategy, "labels_only"):  # those derive their draws from the epoch
        seed = derive_seed(seed, "selection", epoch)
    kind = dss.selection_type or "PerClass"
    selection = select(
        name,
        pool,
        budget,
        val_gradients=validation,
        per=per_of(config),
        linear_layer=dss.linear_layer,
        batch_size=config.dataloader.batch_size,
        seed=seed,
        **options,
    )
    return selection, report_on(
        selection,
        pool,
        strategy=dss.strategy,
        selection_type=kind,
        epoch=epoch,
        gradient_seconds=gradient_seconds,
        gradient_bytes=pool.nbytes + (0 if validation is None else validation.nbytes),
    )
