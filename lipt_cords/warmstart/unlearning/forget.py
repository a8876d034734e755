"""Exact unlearning: shards are disjoint, so removing a sample changes only one worker.

The worker is trained again from theta* on the shard without it, and the soup is made again. The
bits are those of a warm start whose shards never held it (Bourtoule et al., "Machine Unlearning",
SISA, IEEE S&P 2021), unless theta* was trained on it too; the result reports that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from lipt_cords.base.randomness import isolated_rng, preserved_rng
from lipt_cords.data.batches import different_indices, forgettable, remaining
from lipt_cords.data.labels import labels_of
from lipt_cords.data.source import BatchSource
from lipt_cords.models.copies import copy_model, with_dense_gradients
from lipt_cords.models.flops import few_samples, flops_per_sample
from lipt_cords.models.logits_alone import return_logits_alone
from lipt_cords.models.losses import mean_loss
from lipt_cords.models.modes import kept_in_eval
from lipt_cords.models.state import State, on_cpu
from lipt_cords.selectors.dynamics import TrainingDynamics
from lipt_cords.training.cheaper.paths import block_shares
from lipt_cords.warmstart.bill import Bill
from lipt_cords.warmstart.clock import Clock
from lipt_cords.warmstart.common_start import common_samples
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.fitted import Changed, Fitted, Origins, Unlearning
from lipt_cords.warmstart.forecast import common_passes, passes_of
from lipt_cords.warmstart.merge.judge import Judge
from lipt_cords.warmstart.merge.outer import next_start
from lipt_cords.warmstart.plan import FitPlan
from lipt_cords.warmstart.prepare.checks import data_length, first_inputs, head_of
from lipt_cords.warmstart.prepare.shards import missing_classes
from lipt_cords.warmstart.progress import StepProgress
from lipt_cords.warmstart.ranks.launch import open_ranks, threads_of
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.round_inputs import RoundInputs
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.team import Team
from lipt_cords.warmstart.watch.sample_log import SampleLog
from lipt_cords.warmstart.worker_results import NOT_FINITE, FinishedWorker, WorkerResults
from lipt_cords.warmstart.workers.together import run_workers
from lipt_cords.warmstart.workers.worker import WorkerResult, local_steps

LASTING = ("resumed after", "found finished", "could not be written", "not compared with")
"""How notes of a fit begin that stay true after a change of the samples."""


def forget(result: Fitted, indices: Any) -> Changed:
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


def add(result: Fitted, indices: Any) -> Changed:
    """The warm start with more samples; see :meth:`WarmStartResult.add`."""
    origins = _origins(result)
    new = different_indices(indices, data_length(origins.dataset, "training"))
    if bool((present := torch.isin(new, torch.cat(result.shards))).any()):
        raise ValueError(
            f"sample {int(new[present][0])} is in a worker's shard already: add only new samples"
        )
    shards = list(result.shards)
    # All go to one shard, because every shard that gains a sample is trained again.
    smallest = min(range(len(shards)), key=lambda worker: (len(shards[worker]), worker))
    shards[smallest] = torch.cat([shards[smallest], new]).sort().values
    left = [one for one in result.forgotten if one not in set(new.tolist())]
    return _retrained(result, origins, shards, left)


def _origins(result: Fitted) -> Origins:
    """What the workers were trained on; an error if they cannot be trained again one by one."""
    config = result.config
    if config.rounds > 1:
        raise ValueError(
            f"rounds={config.rounds}: after the first merge every worker has learned from all "
            "samples, so that each would have to be trained again: fit again on a data set without "
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
    result: Fitted, origins: Origins, shards: list[Tensor], forgotten: list[int]
) -> Changed:
    """Retrain the workers whose shards changed, and merge all workers."""
    config = result.config.model_copy(
        update={"launch": "serial", "processes": None, "work_dir": None}
    )
    with threads_of(config), open_ranks(config) as ranks, preserved_rng(), torch.enable_grad():
        return _Retraining(result, config, ranks, origins, shards, forgotten).run()


class _Retraining:
    """One change of the samples: some workers are trained again, all are merged again."""

    def __init__(
        self, result: Fitted, config: WarmStartConfig, ranks: Ranks, origins: Origins,
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
        net = self.given if result.ticket is None else result.ticket_model()
        self.model = with_dense_gradients(net).to(ranks.device)
        self.theta_star = self._inner(result.theta_star)
        self.model.load_state_dict(self.theta_star)
        self.loss = mean_loss(origins.loss, ranks.device)

    def run(self) -> Changed:
        """Train, merge, refresh BatchNorm, and make the report."""
        config, earlier = self.config, self.result.report
        clock = Clock(self.ranks.device, earlier.seconds)
        clock.enter("prepare")
        inputs, net_work = self._inputs()
        judge = self._judge(inputs.validation)
        bill = Bill(inputs, self.ranks, clock, judge, earlier)
        run = Run(self.model, 1, net_work=net_work, block_shares=inputs.block_shares)
        run.start = self.theta_star
        bill.load_earlier(run)
        with StepProgress(0, shown=False) as progress:
            results = WorkerResults(self.ranks.rank, inputs.plan, None)
            team = Team(self.ranks, config, results, judge, progress)
            results.begin_round(run.start, 0)
            bill.before_round(run)
            trained = list(
                run_workers([inputs.task(worker, run, team.tick) for worker in self.affected])
            )
            workers = self._all_workers(team, results, trained, net_work)
            bill.after_training(run)
            average, workers = team.merge(run.net, workers, team.choose(workers))
            run.start = next_start(
                run.start, average, run.outer_state,
                trained=inputs.trained, frozen=inputs.frozen, config=config,
            )  # fmt: skip
            bill.after_merge(run, workers)
        clock.enter("refresh")
        finish = judge.finish(run.start)
        states = list(self.result.worker_states or [])
        for one in trained:
            states[one.worker] = self._whole(on_cpu(one.state)) if one.finite else None
        passes = sum(one.passes for one in trained)
        return Changed(
            state_dict=self._whole(on_cpu(run.start) | finish.buffers),
            shards=self.shards,
            worker_states=states,
            logged=self._logged(trained),
            report=bill.report(
                run,
                finish,
                planned_rounds=config.rounds,
                evaluation_seconds=sum(one.evaluation_seconds for one in trained),
                ticket=earlier.ticket,
                notes=[one for one in earlier.notes if one.startswith(LASTING)],
            ),
            forgotten=self.forgotten,
            unlearning=Unlearning(self.affected, passes, self._redo(), self._uncovered()),
        )

    def _logged(self, trained: Sequence[WorkerResult]) -> TrainingDynamics | None:
        """The log with the new visits in place of those of the workers that trained again."""
        if self.result.logged is None:
            return None
        log = SampleLog(len(self.labels), self.result.logged)
        for worker in self.affected:
            log.clear(self.result.shards[worker])
        for one in trained:
            if one.visits is not None:
                log.add(one.visits)
        return log.dynamics()

    def _inputs(self) -> tuple[RoundInputs, float]:
        """What the workers train on, and FLOPs of the trained net over those of the given one."""
        config, origins, device = self.config, self.origins, self.ranks.device
        head = head_of(config, self.model, first_inputs(origins.dataset)).name
        lacking = missing_classes(self.labels, self.shards)
        for net in {self.given, self.model} if not config.compile else ():
            return_logits_alone(net, head)
        with isolated_rng(config.seed, "flops"):
            batch = (*few_samples(origins.dataset, device), self.loss)
            flops, _ = flops_per_sample(self.given.to(device), *batch)
            trained, forward_flops = flops_per_sample(self.model, *batch)
            shares: tuple[float, ...] = ()
            if config.subnetwork is not None:
                shares = block_shares(self.model, *batch, config.subnetwork)
        validation = None
        if origins.val_dataset is not None:
            validation = BatchSource(
                origins.val_dataset, device=device, num_workers=config.loader_workers
            )
        inputs = RoundInputs(
            config=config,
            model=self.model,
            dataset=origins.dataset,
            labels=self.labels,
            plan=FitPlan(head, self.shards, lacking, in_eval=kept_in_eval(self.model)),
            loss=self.loss,
            pool=None,
            validation=validation,
            probe=None,
            flops=flops,
            forward_flops=forward_flops,
            block_shares=shares,
        )
        return inputs, trained / flops

    def _all_workers(
        self,
        team: Team,
        results: WorkerResults,
        trained: Sequence[WorkerResult],
        net_work: float,
    ) -> list[FinishedWorker]:
        """The workers that were trained again, and the others unchanged, at no cost."""
        again = {one.worker: team.keep(one, net_work) for one in trained}
        before = {one.worker: one for one in self.result.report.workers}
        workers = []
        for worker, state in enumerate(self.result.worker_states or []):
            if worker not in again:
                unchanged = replace(
                    before[worker], rank=0, steps=0, passes=0, seconds=0.0, work=1.0, stages=[],
                    kept=state is not None,
                    reason=None if state is not None else before[worker].reason or NOT_FINITE,
                )  # fmt: skip
                inner = None if state is None else self._inner(state)
                again[worker] = results.hold(unchanged, inner)
            workers.append(again[worker])
        return workers

    def _judge(self, validation: BatchSource | None) -> Judge:
        """Evaluates soups, and refreshes BatchNorm on samples that are not forgotten."""
        kept = remaining(len(self.labels), self.forgotten)
        others = Subset(self.origins.dataset, kept.tolist())
        scratch = copy_model(self.model)
        return Judge(scratch, others, self.labels[kept], self.config, validation)

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
