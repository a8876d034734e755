"""LiPT: sparse workers on disjoint shards, merged into one model worth reading gradients from."""

from __future__ import annotations

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.config import WarmStartConfig
from lipt_cords.data import BatchSource
from lipt_cords.randomness import isolated_rng, preserved_rng
from lipt_cords.warmstart.averaging import on_cpu, tensor_state
from lipt_cords.warmstart.billing import make_report, seconds_by_phase
from lipt_cords.warmstart.common import train_common_start
from lipt_cords.warmstart.cost import Clock, flops_per_sample
from lipt_cords.warmstart.crew import Crew
from lipt_cords.warmstart.feed import Pool
from lipt_cords.warmstart.launch import Ranks, open_ranks
from lipt_cords.warmstart.objective import LossFunction, mean_loss
from lipt_cords.warmstart.plan import Plan, check_model, fingerprint, make_plan
from lipt_cords.warmstart.progress import StepProgress
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.soup import Judge
from lipt_cords.warmstart.worker import WorkerTask

logger = logging.getLogger(__name__)


class LiPTWarmStart:
    """A lightweight pre-training: K short, independent trainings merged into one model.

    One common start theta* is trained briefly; each worker continues it alone on its own
    class-balanced shard, pruned once and optionally augmented; the workers' weights are averaged
    and BatchNorm statistics recomputed. The merged model's last-layer gradients feed a selector.

    Under ``torchrun`` the workers are shared out among the ranks, which exchange weights twice:
    theta* at the start, the sum at the end. Every rank returns the same result. Workers are
    bit-equal whatever the launcher (on a CPU: for an equal number of threads); the merged
    weights are bit-equal on one rank and serially, and equal to float32 summation order on
    more ranks (relative difference about 1e-6).

    Args:
        config: the options, or pass them by name.
        **options: fields of :class:`lipt_cords.config.WarmStartConfig`.

    Source: Ro, Wang, Chidambaram, Akella, Lowering the Pre-training Tax for Gradient-based
    Subset Training, ICML 2023.

    >>> data = torch.utils.data.TensorDataset(torch.randn(40, 8), torch.arange(40) % 4)
    >>> warm_start = LiPTWarmStart(num_workers=2, epochs=1, common_steps=2, launch="serial")
    >>> result = warm_start.fit(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), data)
    >>> result.report.passes, result.report.critical_path_passes
    (120, 100)
    """

    def __init__(self, config: WarmStartConfig | None = None, /, **options: Any) -> None:
        if config is not None and options:
            raise ValueError("pass either a WarmStartConfig or options by name, not both")
        self.config = config or WarmStartConfig(**options)

    def fit(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any],
        val_dataset: Dataset[Any] | None = None,
        *,
        loss: LossFunction | None = None,
        num_classes: int | None = None,
    ) -> WarmStartResult:
        """Run the warm start. Neither the model nor the global random state is modified.

        Args:
            model: any module that ends in a linear head; its weights are the start.
            train_dataset: a map-style data set of (x, y) pairs, or of dicts with labels.
            val_dataset: held-out data of the same form, to measure workers and soup; needed for
                the greedy soup.
            loss: None for cross-entropy, a torch loss, or a callable of (logits, labels) that
                returns one value a sample or their mean.
            num_classes: expected number of the head's outputs.

        Returns:
            The merged weights, with the report of what they cost. With ``work_dir`` they are
            written there too, by rank 0.

        Raises:
            ValueError: unusable data, model or options; no worker with finite weights is left.
        """
        with (
            open_ranks(self.config.launch, self.config.device) as ranks,
            preserved_rng(),
            torch.enable_grad(),
        ):
            result = _fit(self.config, ranks, model, train_dataset, val_dataset, loss, num_classes)
            if self.config.work_dir is not None:
                ranks.on_main(partial(_save, result, self.config.work_dir))
        return result


def _fit(
    config: WarmStartConfig,
    ranks: Ranks,
    given: nn.Module,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
    user_loss: LossFunction | None,
    num_classes: int | None,
) -> WarmStartResult:
    """One fit on one rank: the phases in order."""
    device, clock = ranks.device, Clock(ranks.device)
    with clock.phase("prepare"):
        plan, labels = _prepare(config, ranks, given, dataset, val_dataset, num_classes)
        loss = mean_loss(user_loss, device)
        model = copy.deepcopy(given).to(device)
        flops = ranks.on_main(partial(_flops, config, model, dataset, loss))
        pool, validation = _read(config, ranks, plan, dataset, val_dataset)
    task = partial(
        WorkerTask,
        model=model,
        head=plan.head,
        dataset=dataset,
        config=config,
        loss=loss,
        pool=pool,
    )
    steps = config.common_steps + sum(
        task(worker, indices=plan.shards[worker]).steps
        for worker in range(ranks.rank, config.num_workers, ranks.size)
    )
    with StepProgress(steps, config.progress if ranks.is_main else False) as bar:
        with clock.phase("common"):
            bar.describe("common start")
            common_passes = ranks.on_main(
                lambda: train_common_start(
                    model, dataset, labels, config=config, loss=loss, pool=pool, tick=bar.tick
                )
            )
            theta_star = ranks.broadcast(tensor_state(model))
            model.load_state_dict(theta_star)
        crew = Crew(ranks, config, theta_star)
        with clock.phase("workers"):
            summaries = crew.train(
                lambda worker: task(
                    worker, indices=plan.shards[worker], validation=validation, tick=bar.tick
                ),
                plan.classes_missing,
                bar.describe,
            )
        bar.describe("soup")
        judge = Judge(copy.deepcopy(model), dataset, labels, config, validation)
        with clock.phase("soup"):
            summaries = crew.choose(summaries, judge)
            merged = crew.merge(summaries)
        with clock.phase("refresh"):
            finish = ranks.on_main(lambda: judge.finish(merged))
    worker_states = crew.worker_states(summaries)
    seconds = seconds_by_phase(clock, crew.evaluation_seconds, summaries)
    bill = partial(make_report, flops=flops, ranks=ranks.size, sent=ranks.bytes_communicated)
    report = ranks.on_main(
        lambda: bill(plan, common_passes, summaries, judge, finish, seconds=seconds)
    )
    return WarmStartResult(
        state_dict=on_cpu(merged) | finish.buffers,
        theta_star=on_cpu(theta_star),
        config=config,
        report=report,
        shards=plan.shards,
        worker_states=worker_states,
        template=copy.deepcopy(given).cpu(),
        device=device,
    )


def _prepare(
    config: WarmStartConfig,
    ranks: Ranks,
    model: nn.Module,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
    num_classes: int | None,
) -> tuple[Plan, Tensor]:
    """The plan on every rank; the labels, which rank 0 alone has read, on rank 0."""

    def checked() -> str:
        check_model(model)
        return fingerprint(config, model, dataset)

    prints = ranks.everywhere(checked)
    if len(set(prints)) > 1:
        different = [rank for rank, one in enumerate(prints) if one != prints[0]]
        raise ValueError(
            f"ranks {different} differ from rank 0 in options, architecture or size of the data: "
            "start the same script with the same arguments on every rank"
        )
    labels = torch.empty(0, dtype=torch.int64)

    def plan_on_main() -> Plan:
        nonlocal labels
        with isolated_rng(config.seed, "prepare"):
            plan, labels = make_plan(config, model, dataset, val_dataset, num_classes)
        return plan

    plan = ranks.on_main(plan_on_main)
    return plan, labels


def _read(
    config: WarmStartConfig,
    ranks: Ranks,
    plan: Plan,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
) -> tuple[Pool | None, BatchSource | None]:
    """This rank's samples, read once and checked before anyone trains; and the held-out data."""
    pool, validation = None, None

    def read() -> None:
        nonlocal pool, validation
        with isolated_rng(config.seed, "pool", ranks.rank):
            if mine := plan.shards[ranks.rank :: ranks.size]:
                indices = torch.cat(mine).sort().values
                pool = Pool(dataset, indices, ranks.device, config.loader_workers)
            if val_dataset is not None:
                validation = BatchSource(
                    val_dataset, device=ranks.device, num_workers=config.loader_workers
                )

    ranks.everywhere(read)
    return pool, validation


def _flops(
    config: WarmStartConfig, model: nn.Module, dataset: Dataset[Any], loss: LossFunction
) -> tuple[int, int]:
    with isolated_rng(config.seed, "flops"):
        device = next(model.parameters()).device
        some = torch.arange(min(2, len(dataset)))  # type: ignore[arg-type]
        source = BatchSource(dataset, some, device=device, cache_bytes=0)
        inputs, labels = next(source.batches(batch_size=2))
        return flops_per_sample(model, inputs, labels, loss)


def _save(result: WarmStartResult, directory: Path) -> None:
    logger.info("warm start written to %s", result.save(directory))
