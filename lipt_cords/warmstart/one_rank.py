"""One fit on one rank: checks, reading the data, then the rounds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from lipt_cords.base.randomness import isolated_rng, preserved_rng
from lipt_cords.data.open_files import nothing_left_open
from lipt_cords.models.copies import copy_model, with_dense_gradients
from lipt_cords.models.eager import uncompiled
from lipt_cords.models.flops import few_samples, flops_per_sample
from lipt_cords.models.logits_alone import return_logits_alone
from lipt_cords.models.losses import LossFunction, mean_loss
from lipt_cords.models.state import on_cpu
from lipt_cords.training.cheaper.path_schedule import PathSchedule
from lipt_cords.training.cheaper.paths import block_shares
from lipt_cords.warmstart.bill import Bill
from lipt_cords.warmstart.clock import Clock
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.early_bird import EarlyBird
from lipt_cords.warmstart.lipt import lipt
from lipt_cords.warmstart.merge.judge import Judge
from lipt_cords.warmstart.prepare.checks import Request, data_length
from lipt_cords.warmstart.prepare.prepare import prepare, read_data
from lipt_cords.warmstart.presets import ALONE, cost_line, scaled
from lipt_cords.warmstart.progress import StepProgress, announce
from lipt_cords.warmstart.ranks.conversation import Excluded
from lipt_cords.warmstart.ranks.launch import open_ranks, threads_of
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.ranks.sigterm import stoppable
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.resume.work_dir import WorkDir
from lipt_cords.warmstart.round_inputs import RoundInputs
from lipt_cords.warmstart.team import Team
from lipt_cords.warmstart.watch.on_round import RoundCallback
from lipt_cords.warmstart.watch.readings import ProbeReadings
from lipt_cords.warmstart.watch.sample_log import SampleLog
from lipt_cords.warmstart.watch.stop import EarlyStop
from lipt_cords.warmstart.watch.watcher import Watchers
from lipt_cords.warmstart.worker_results import WorkerResults
from lipt_cords.warmstart.workers.visits import leaving_logits
from lipt_cords.warmstart.workers.worker import local_steps

logger = logging.getLogger(__name__)


def fit_on_this_rank(
    config: WarmStartConfig,
    request: Request,
    *,
    temporary: bool = False,
    owners: str | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> WarmStartResult:
    """Fit in this process, alone or as one of the ranks.

    Args:
        config: the options.
        request: the arguments of the fit.
        temporary: ``work_dir`` is temporary, so it is not named in messages.
        owners: token of the processes that own ``work_dir`` already, of which this one is.
        on_progress: called at every progress, and while waiting for other ranks.
    """

    def progress() -> None:
        on_progress()
        stop_request.check()

    with (
        ExitStack() as held,
        threads_of(config),
        stoppable(config.work_dir, log_place=not temporary) as stop_request,
        open_ranks(config, progress) as ranks,
        preserved_rng(),
        torch.enable_grad(),
        nothing_left_open(request.dataset, request.val_dataset),
        nullcontext() if config.compile else uncompiled(),
    ):
        try:
            result = _fit(config, ranks, request, held, owners)
        except Exception as error:
            # What a late rank finds may be strange: the others remove files that they have merged.
            if not isinstance(error, Excluded) and not ranks.left_out():
                raise
            logger.warning(
                "rank %d is late, and waits for the result of the others: %s", ranks.rank, error
            )
            return WarmStartResult.from_bytes(ranks.wait_for_result(), request.model)
        if ranks.is_main and len(ranks.live) < ranks.size:
            ranks.publish_result(result.to_bytes())
        if config.work_dir is not None and not temporary:
            ranks.on_main(partial(_save, result, config.work_dir), "saving the result")
    return result


def _fit(
    config: WarmStartConfig, ranks: Ranks, request: Request, held: ExitStack, owners: str | None
) -> WarmStartResult:
    """Check and read everything, run LiPT, and make the report."""
    clock = Clock(ranks.device)
    clock.enter("prepare")
    config, alone = _scaled(config, ranks, request)
    inputs, folder = _prepared(config, ranks, request, held, owners)
    judge = Judge(
        copy_model(inputs.model), inputs.dataset, inputs.labels, config, inputs.validation
    )
    bill = Bill(inputs, ranks, clock, judge)
    ticket = None
    if config.early_bird is not None and config.early_bird.ratio > 0:
        ticket = EarlyBird(config, config.early_bird, inputs, bill, judge)
    samples = SampleLog(data_length(inputs.dataset, "training")) if config.log_samples else None
    shards = inputs.plan.shards[ranks.rank :: ranks.size]
    steps = config.common_steps + sum(local_steps(config, len(shard)) for shard in shards)
    with StepProgress(steps, config.progress if ranks.is_main else False) as progress:
        results = WorkerResults(ranks.rank, inputs.plan, folder)
        team = Team(ranks, config, results, judge, progress)
        watchers = Watchers(
            [
                bill,
                ProbeReadings(config, ranks, judge, inputs.probe),
                EarlyStop(config),
                *([] if ticket is None else [ticket]),
                *([] if samples is None else [samples]),
                WorkDir(team, folder),
                RoundCallback(ranks, request.on_round),
            ]
        )
        clock.enter("common")
        run, theta_star = lipt(inputs, config, team, watchers)
        clock.enter("refresh")
        finish = ranks.on_main(lambda: judge.finish(run.start), "the final evaluation")
    clock.enter("result")
    states = team.worker_states(run.summaries[-1])
    found = [
        f"found finished in work_dir and not trained again: workers {', '.join(map(str, some))}"
        for some in [team.found()]
        if some
    ]
    report = ranks.on_main(
        lambda: bill.report(
            run,
            finish,
            planned_rounds=config.rounds,
            evaluation_seconds=team.evaluation_seconds,
            ticket=None if ticket is None else ticket.summary(),
            notes=[*alone, *watchers.notes(), *team.notes, *found],
        ),
        "the report",
    )
    if states is not None:
        states = [None if state is None else run.whole(state) for state in states]
    return WarmStartResult(
        state_dict=run.whole(on_cpu(run.start) | finish.buffers),
        theta_star=on_cpu(theta_star),
        config=config,
        report=report,
        shards=inputs.plan.shards,
        worker_states=states,
        logged=None if samples is None else samples.dynamics(),
        ticket=None if ticket is None else ticket.ticket,
        template=copy_model(request.model).cpu(),
        device=ranks.device,
    )


def _scaled(
    config: WarmStartConfig, ranks: Ranks, request: Request
) -> tuple[WarmStartConfig, list[str]]:
    """The options for this data and these processes, and a note for the report."""
    made: list[WarmStartConfig] = []

    def scale() -> None:
        request.check()
        samples = data_length(request.dataset, "training")
        made.append(scaled(config, samples, ranks.size, model=request.model, shards=request.shards))

    ranks.everywhere(scale, "the options")
    by_itself = made[0].num_workers == 1 and "num_workers" not in config.model_fields_set
    return made[0], [ALONE] if by_itself else []


def _prepared(
    config: WarmStartConfig, ranks: Ranks, request: Request, held: ExitStack, owners: str | None
) -> tuple[RoundInputs, RunFolder | None]:
    """The inputs of the rounds: checked, then read on this rank; before that the cost is said."""
    plan, labels, folder = prepare(config, ranks, request, held, owners)
    loss = mean_loss(request.loss, ranks.device)
    model = with_dense_gradients(copy_model(request.model)).to(ranks.device)
    if not config.compile:
        return_logits_alone(model, plan.head)
    (flops, forward_flops), shares = ranks.on_main(
        partial(_flops, config, model, request.dataset, loss), "counting operations"
    )
    said = cost_line(config, data_length(request.dataset, "training"))
    ranks.on_main(partial(announce, said, config.progress), "saying the cost")
    pool, validation, probe = read_data(config, ranks, plan, request.dataset, request.val_dataset)
    inputs = RoundInputs(
        config=config,
        model=model,
        dataset=request.dataset,
        labels=labels,
        plan=plan,
        loss=loss,
        pool=pool,
        validation=validation,
        probe=probe,
        flops=flops,
        forward_flops=forward_flops,
        block_shares=shares,
    )
    return inputs, folder


def _flops(
    config: WarmStartConfig, model: nn.Module, dataset: Dataset[Any], loss: LossFunction
) -> tuple[tuple[int, int], tuple[float, ...]]:
    """Operations of one sample, and each block's share of them."""
    loss = leaving_logits(loss) if config.log_samples else loss
    with isolated_rng(config.seed, "flops"):
        device = next(model.parameters()).device
        inputs, labels = few_samples(dataset, device)
        shares: tuple[float, ...] = ()
        if config.subnetwork is not None:
            shares = block_shares(model, inputs, labels, loss, config.subnetwork)
            PathSchedule(config.subnetwork, len(shares), 1)  # errors come before any work
        return flops_per_sample(model, inputs, labels, loss), shares


def _save(result: WarmStartResult, directory: Path) -> None:
    logger.info("warm start written to %s", result.save(directory))
