"""One fit on one rank: everything is checked and read, then the rounds run."""

from __future__ import annotations

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from lipt_cords.base.randomness import isolated_rng, preserved_rng
from lipt_cords.models.flops import few_samples, flops_per_sample
from lipt_cords.models.losses import LossFunction, mean_loss
from lipt_cords.training.cheaper.path_schedule import PathSchedule
from lipt_cords.training.cheaper.paths import block_shares
from lipt_cords.warmstart.clock import Clock
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.lipt import Rounds
from lipt_cords.warmstart.prepare.checks import Request, copied
from lipt_cords.warmstart.prepare.prepare import prepare, read_data
from lipt_cords.warmstart.ranks.conversation import Excluded
from lipt_cords.warmstart.ranks.launch import open_ranks, threads_of
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.ranks.sigterm import stoppable
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.round_inputs import Material

logger = logging.getLogger(__name__)


def fit_on_this_rank(
    config: WarmStartConfig, request: Request, *, temporary: bool = False
) -> WarmStartResult:
    """Fit in this process, alone or as one of the ranks.

    Args:
        config: the options.
        request: the arguments of the fit.
        temporary: ``work_dir`` is not the user's, who need not hear of it.
    """
    with (
        threads_of(config),
        stoppable(config.work_dir, said=not temporary) as wish,
        open_ranks(config, wish.check) as ranks,
        preserved_rng(),
        torch.enable_grad(),
    ):
        try:
            result = _fit(config, ranks, request)
        except Excluded as gone:
            logger.warning("%s: it waits for their result", gone)
            return WarmStartResult.from_bytes(ranks.inherit(), request.model)
        if ranks.is_main and len(ranks.live) < ranks.size:
            ranks.leave_behind(result.to_bytes())
        if config.work_dir is not None and not temporary:
            ranks.on_main(partial(_save, result, config.work_dir))
    return result


def _fit(config: WarmStartConfig, ranks: Ranks, request: Request) -> WarmStartResult:
    """One fit on one rank: everything is checked and read, then the rounds run."""
    given, dataset, val_dataset = request.model, request.dataset, request.val_dataset
    clock = Clock(ranks.device)
    with clock.phase("prepare"):
        model = copied(given)  # first: a forward pass without gradients can hide that it fails
        plan, labels, folder = prepare(config, ranks, request)
        loss = mean_loss(request.loss, ranks.device)
        model.to(ranks.device)
        (flops, forward_flops), shares = ranks.on_main(
            partial(_flops, config, model, dataset, loss)
        )
        pool, validation, probe = read_data(config, ranks, plan, dataset, val_dataset)
    material = Material(
        model=model,
        dataset=dataset,
        labels=labels,
        plan=plan,
        loss=loss,
        pool=pool,
        validation=validation,
        probe=probe,
        flops=flops,
        forward_flops=forward_flops,
        block_shares=shares,
        on_round=request.on_round,
    )
    outcome = Rounds(config, ranks, material, folder, clock).run()
    return WarmStartResult(
        state_dict=outcome.merged,
        theta_star=outcome.theta_star,
        config=config,
        report=outcome.report,
        shards=plan.shards,
        worker_states=outcome.worker_states,
        ticket=outcome.ticket,
        template=copy.deepcopy(given).cpu(),
        device=ranks.device,
    )


def _flops(
    config: WarmStartConfig, model: nn.Module, dataset: Dataset[Any], loss: LossFunction
) -> tuple[tuple[int, int], tuple[float, ...]]:
    """Operations of one sample, and the share of every block that may be left out."""
    with isolated_rng(config.seed, "flops"):
        device = next(model.parameters()).device
        inputs, labels = few_samples(dataset, device)
        shares: tuple[float, ...] = ()
        if config.subnetwork is not None:
            shares = block_shares(model, inputs, labels, loss, config.subnetwork)
            PathSchedule(config.subnetwork, len(shares), 1)  # what is wrong is said before any work
        return flops_per_sample(model, inputs, labels, loss), shares


def _save(result: WarmStartResult, directory: Path) -> None:
    logger.info("warm start written to %s", result.save(directory))
