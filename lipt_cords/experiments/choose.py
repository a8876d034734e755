"""From a configuration's strategy to one subset chosen by our selectors.

A run that selects in the course of its epochs and the command that selects once ask the same
function, so that what is looked at with one is what the other trains on.
"""

from __future__ import annotations

import time
from typing import Any, cast

from torch import Tensor, nn

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import derive_seed
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.own_options import KINDS, fast_options
from lipt_cords.cords.own_selection import PER, FastOptions, fast_selection
from lipt_cords.cords.strategies import FRESH
from lipt_cords.data.source import BatchSource
from lipt_cords.selectors.base import Per, Selection, select
from lipt_cords.selectors.report import ReadGradients, SelectionReport, report_on
from lipt_cords.selectors.stratified_cuts import Pilot
from lipt_cords.training.sources import SelectionSchedule


def schedule_of(config: RunConfig) -> SelectionSchedule:
    """CORDS's calendar of a run. A warm start takes the place of kappa's full-data epochs."""
    dss = config.dss_args
    return SelectionSchedule(
        num_epochs=config.train_args.num_epochs,
        kappa=0.0 if dss.warm_start is not None else dss.kappa,
        fraction=dss.fraction,
        select_every=1 if dss.strategy in FRESH else dss.select_every,
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
        "eta": dss.eta or config.optimizer.lr,
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
    """Where our own strategies choose, by CORDS's name of it: in each class unless told otherwise.

    Raises:
        ValueError: an unknown ``selection_type``.
    """
    kind = config.dss_args.selection_type or "PerClass"
    if kind not in PER:
        raise unknown_name(f"selection_type of {config.dss_args.strategy}", kind, PER)
    return cast(Per, PER[kind])


def own_options(config: RunConfig, *more: str) -> dict[str, Any]:
    """The options of our selectors in a configuration.

    Raises:
        ValueError: one that the run itself decides.
    """
    options = dict(config.dss_args.options)
    for name in ("name", "gradients", "budget", "val_gradients", "per", "seed", "batch_size",
                 "linear_layer", "memory_limit", *more):  # fmt: skip
        if name in options:
            raise ValueError(
                f"dss_args.options.{name} is decided by the run: leave it out (fraction, "
                "selection_type, linear_layer, dataloader.batch_size and train_args.seed say it)"
            )
    return options


def choose_by_curriculum(
    config: RunConfig, budget: int, labels: Tensor, scores: Tensor, *, epoch: int, epochs: int
) -> Selection:
    """The subset of one epoch of a curriculum.

    Args:
        config: its ``dss_args.options`` say how fast it goes.
        budget: samples to choose.
        labels: of the pool, (N,).
        scores: difficulties of the pool, (N,): the same ones in every epoch.
        epoch: which epoch on subsets, from 0.
        epochs: how many there are.
    """
    options = own_options(config, "scores", "epoch", "epochs")
    options.pop("score", None)
    return select(
        "curriculum", labels, budget, per=per_of(config), seed=config.train_args.seed,
        batch_size=config.dataloader.batch_size, scores=scores, epoch=epoch, epochs=epochs,
        **options,
    )  # fmt: skip


def choose_subset(
    config: RunConfig,
    budget: int,
    train: BatchSource,
    val: BatchSource,
    read: ReadGradients,
    *,
    epoch: int = 0,
    pilot: Pilot | None = None,
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

    Returns:
        The selection and its report.

    Raises:
        ValueError: a strategy without a subset, or whatever the selector refuses.
    """
    dss = config.dss_args
    if dss.strategy in KINDS:
        return fast_selection(fast_options_of(config), budget, train, val, read, epoch=epoch)
    if dss.strategy == "Full":
        raise ValueError("dss_args.type is 'Full', which selects nothing: name a selector")
    started = time.perf_counter()
    pool = read(train)
    gradient_seconds = time.perf_counter() - started
    name, options = dss.strategy.lower(), own_options(config)
    if options.pop("pilot", None) is not None:
        options["pilot"] = pilot
    seed = config.train_args.seed
    if dss.strategy in ("RS2", "AdaptiveRandom"):
        name, options["epoch"] = "rs2", epoch
    elif dss.strategy != "Random":  # one subset for all epochs
        seed = derive_seed(seed, "selection", epoch)
    kind = dss.selection_type or "PerClass"
    selection = select(
        name,
        pool,
        budget,
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
        gradient_bytes=pool.nbytes,
    )
