"""Exact unlearning: shards are disjoint, so a sample that must go touches one worker.

Its worker trains again from theta* on the shard without it, and the soup is made again. That has
the bits of a warm start whose shards never held it (Bourtoule et al., "Machine Unlearning", SISA,
IEEE S&P 2021), as far as theta* had not seen it either, which is found out and told.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from lipt_cords.base.randomness import isolated_rng, preserved_rng
from lipt_cords.data.batches import different_indices, forgettable, labels_of, remaining
from lipt_cords.data.source import BatchSource
from lipt_cords.models.flops import few_samples, flops_per_sample
from lipt_cords.models.losses import mean_loss
from lipt_cords.models.state import State, on_cpu
from lipt_cords.training.cheaper.paths import block_shares
from lipt_cords.warmstart.common_start import common_samples
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.crew import Crew
from lipt_cords.warmstart.forecast import common_passes, passes_of
from lipt_cords.warmstart.merge.soup import Judge
from lipt_cords.warmstart.plan import Plan
from lipt_cords.warmstart.prepare.checks import data_length, first_inputs, head_of
from lipt_cords.warmstart.prepare.shards import missing_classes
from lipt_cords.warmstart.ranks.launch import open_ranks, threads_of
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.workers.together import run_workers
from lipt_cords.warmstart.workers.worker import WorkerTask, local_steps

if TYPE_CHECKING:
    from lipt_cords.warmstart.result import WarmStartResult

from lipt_cords.warmstart.fitted import Origins, Unlearning


def forget(result: WarmStartResult, indices: Any) -> WarmStartResult:
    """The warm start without some samples; see :meth:`WarmStartResult.forget`."""
    origins = _origins(result)
    samples = data_length(origins.dataset, "training")
    gone = forgettable(indices, samples, result.forgotten)
    shards = [shard[~torch.isin(shard, torch.tensor(gone))] for shard in result.shards]
    if empty := [worker for worker, shard in enumerate(shards) if len(shard) == 0]:
        raise ValueError(
            f"worker {empty[0]} would have no sample left: fit a new warm start with fewer workers"
        )
    return _retrained(result, origins, shards, sorted([*result.forgotten, *gone]))


def add(result: WarmStartResult, indices: Any) -> WarmStartResult:
    """The warm start with some samples more; see :meth:`WarmStartResult.add`."""
    origins = _origins(result)
    new = different_indices(indices, data_length(origins.dataset, "training"))
    if bool((present := torch.isin(new, torch.cat(result.shards))).any()):
        raise ValueError(
            f"sample {int(new[present][0])} is in a worker's shard already: add new samples alone"
        )
    shards = list(result.shards)
    # All go to one shard, for every shard that gains a sample trains again.
    smallest = min(range(len(shards)), key=lambda worker: (len(shards[worker]), worker))
    shards[smallest] = torch.cat([shards[smallest], new]).sort().values
    left = [one for one in result.forgotten if one not in set(new.tolist())]
    return _retrained(result, origins, shards, left)


def _origins(result: WarmStartResult) -> Origins:
    """What the workers were trained on, if they can be trained again one by one."""
    config = result.config
    if config.rounds > 1:
        raise ValueError(
            f"rounds={config.rounds}: after the first merge every worker has learned from all "
            "samples, so that each would have to be trained again: fit anew on a data set without "
            "them (torch.utils.data.Subset). A warm start of one round forgets worker by worker"
        )
    if result.worker_states is None:
        raise ValueError(
            "the other workers' weights are needed to merge them again, and were not kept: fit "
            "with keep_workers=True"
        )
    if result.origins is None or result.template is None:
        raise ValueError(
            "a result that was loaded, pickled or deeply copied does not hold the model and the "
            "data that it was fitted on: call result.on(model, train_dataset, val_dataset) first"
        )
    return result.origins


def _retrained(
    result: WarmStartResult, origins: Origins, shards: list[Tensor], forgotten: list[int]
) -> WarmStartResult:
    """Train the workers again whose shards are others, and merge all of them."""
    config = result.config.model_copy(
        update={"launch": "serial", "processes": None, "work_dir": None}
    )
    with threads_of(config), open_ranks(config) as ranks, preserved_rng(), torch.enable_grad():
        return _Retraining(result, config, ranks, origins, shards, forgotten).run()


class _Retraining:
    """One change of the samples."""

    def __init__(
        self, result: WarmStartResult, config: WarmStartConfig, ranks: Ranks, origins: Origins,
        shards: list[Tensor], forgotten: list[int],
    ) -> None:  # fmt: skip
        self.result, self.config, self.ranks = result, config, ranks
        self.origins, self.shards, self.forgotten = origins, shards, forgotten
        self.affected = [
            worker
            for worker, (old, new) in enumerate(zip(result.shards, shards, strict=True))
            if not torch.equal(old, new)
        ]
        self.labels = labels_of(origins.dataset)
        self.given = result.model()
        self.model = (self.given if result.ticket is None else result.ticket_model()).to(
            ranks.device
        )
        self.theta_star = self._inner(result.theta_star)
        self.model.load_state_dict(self.theta_star)
        self.loss = mean_loss(origins.loss, ranks.device)
        self.validation = None
        if origins.val_dataset is not None:
            self.validation = BatchSource(
                origins.val_dataset, device=ranks.device, num_workers=config.loader_workers
            )

    def run(self) -> WarmStartResult:
        """Train, merge, refresh, and write the bill."""
        config, before = self.config, self.result.report
        head = head_of(config, self.model, first_inputs(self.origins.dataset)).name
        plan = Plan(head, self.shards, missing_classes(self.labels, self.shards))
        crew = Crew(self.ranks, config, plan, None)
        crew.stand_after(self.theta_star, 0)
        flops, net_work, shares = self._operations()
        trained = {one.worker: one for one in run_workers(self._tasks(head, shares))}
        told = {one.worker: one for one in before.workers}
        finished = []
        for worker, state in enumerate(self.result.worker_states or []):
            if worker in trained:
                finished.append(crew.take(trained[worker], net_work))
            else:
                again = replace(told[worker], rank=0, kept=state is not None)
                finished.append(crew.take_up(again, None if state is None else self._inner(state)))
        judge = self._judge()
        merged, summaries = crew.merge(finished, crew.choose(finished, judge))
        finish = judge.finish(merged)
        passes = sum(one.passes for one in trained.values())
        work = sum(one.passes * one.work * net_work for one in trained.values())
        states = list(self.result.worker_states or [])
        for worker, one in trained.items():
            states[worker] = self._whole(on_cpu(one.state)) if one.finite else None
        report = replace(
            before,
            passes=before.passes + passes,
            critical_path_passes=before.critical_path_passes
            + max((one.passes for one in trained.values()), default=0),
            flops=before.flops + round(work * flops),
            workers=summaries,
            merged_accuracy=finish.accuracy,
            accuracy_before_refresh=finish.before,
            accuracy_after_refresh=finish.after,
            refresh_kept=finish.refreshed,
        )
        return replace(
            self.result,
            state_dict=self._whole(on_cpu(merged) | finish.buffers),
            shards=self.shards,
            worker_states=states,
            report=report,
            forgotten=self.forgotten,
            unlearning=Unlearning(self.affected, passes, self._redo(), self._uncovered()),
        )

    def _tasks(self, head: str, shares: tuple[float, ...]) -> list[WorkerTask]:
        return [
            WorkerTask(
                worker=worker, model=self.model, head=head, dataset=self.origins.dataset,
                indices=self.shards[worker], config=self.config, loss=self.loss,
                validation=self.validation, block_shares=shares,
            )
            for worker in self.affected
        ]  # fmt: skip

    def _judge(self) -> Judge:
        """Judges soups, and refreshes BatchNorm on samples that are not forgotten."""
        kept = remaining(len(self.labels), self.forgotten)
        others = Subset(self.origins.dataset, kept.tolist())
        scratch = copy.deepcopy(self.model)
        return Judge(scratch, others, self.labels[kept], self.config, self.validation)

    def _operations(self) -> tuple[int, float, tuple[float, ...]]:
        """FLOPs of a step of the given net, of the trained net over it, and of its blocks."""
        with isolated_rng(self.config.seed, "flops"):
            batch = (*few_samples(self.origins.dataset, self.ranks.device), self.loss)
            flops, _ = flops_per_sample(self.given.to(self.ranks.device), *batch)
            trained, _ = flops_per_sample(self.model, *batch)
            shares: tuple[float, ...] = ()
            if self.config.subnetwork is not None:
                shares = block_shares(self.model, *batch, self.config.subnetwork)
        return flops, trained / flops, shares

    def _redo(self) -> int:
        """Passes of a whole warm start on these shards."""
        config = self.config
        local = [
            passes_of(local_steps(config, len(shard)), len(shard), config.batch_size)
            for shard in self.shards
        ]
        return common_passes(config, len(self.labels)) + sum(local)

    def _uncovered(self) -> list[str]:
        seen = torch.isin(torch.tensor(self.forgotten), common_samples(self.config, self.labels))
        count = int(seen.sum())
        if self.config.common_steps == 0 or count == 0:
            return []
        what = f"{count} of all samples forgotten so far were in the common start's training"
        found = [f"theta*: {what}, which was not repeated (common_steps=0 has none)"]
        if self.result.ticket is not None:
            found.append(f"the Early-Bird ticket: {what}, by which its channels were chosen")
        return found

    def _inner(self, state: State) -> State:
        ticket = self.result.ticket
        return dict(state) if ticket is None else ticket.gather(state)

    def _whole(self, state: State) -> State:
        ticket = self.result.ticket
        return state if ticket is None else ticket.expand(state)
