"""All workers of a run, shared out among the ranks: trained, chosen, and merged into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lipt_cords.config import WarmStartConfig
from lipt_cords.warmstart.averaging import State, StateSum
from lipt_cords.warmstart.launch import Ranks
from lipt_cords.warmstart.report import WorkerSummary, finite_or_none
from lipt_cords.warmstart.soup import GreedySoup, Judge
from lipt_cords.warmstart.worker import WorkerResult, WorkerTask, run_worker

NOT_FINITE = "weights are not finite"


class Crew:
    """Rank r of W trains workers r, r + W, ... and keeps no more of them than the soup needs.

    A uniform soup needs their sum alone. A greedy soup, and ``keep_workers``, need every state.

    Args:
        ranks: the processes.
        config: options of the warm start.
        theta_star: the common start's state dict, on this rank's device.
    """

    def __init__(self, ranks: Ranks, config: WarmStartConfig, theta_star: State) -> None:
        self._ranks, self._config, self._theta_star = ranks, config, theta_star
        self._holds = config.soup == "greedy" or config.keep_workers
        self._sum = StateSum(theta_star)
        self._states: dict[int, State] = {}
        self.evaluation_seconds = 0.0

    def train(
        self,
        task_of: Callable[[int], WorkerTask],
        classes_missing: Sequence[list[int]],
        announce: Callable[[str], None],
    ) -> list[WorkerSummary]:
        """Train this rank's workers and gather everyone's summaries, in worker order.

        Raises:
            ValueError: a worker cannot read its shard, or no worker ends with finite weights.
        """
        gathered = self._ranks.everywhere(
            lambda: [
                self._train_one(task_of(worker), classes_missing[worker], announce)
                for worker in range(self._ranks.rank, self._config.num_workers, self._ranks.size)
            ]
        )
        summaries = sorted((one for part in gathered for one in part), key=lambda one: one.worker)
        if not any(one.kept for one in summaries):
            raise ValueError(
                f"all {len(summaries)} workers ended with weights that are not finite: lower lr "
                f"(received {self._config.lr:g})"
            )
        return summaries

    def choose(self, summaries: Sequence[WorkerSummary], judge: Judge) -> list[WorkerSummary]:
        """Decide who is in the soup; for a greedy soup rank 0 tries them from the best down."""
        if self._config.soup == "uniform":
            return list(summaries)
        ranking = [one for one in summaries if one.kept]
        ranking.sort(key=lambda one: (-(one.accuracy or 0), one.worker))
        soup, failure = GreedySoup(self._theta_star, judge.trial), None
        for one in ranking:
            state = self._ranks.to_main(
                self._states.get(one.worker), one.rank, like=self._theta_star
            )
            try:
                if state is not None and failure is None:
                    soup.offer(one.worker, state)
            except Exception as error:  # the other ranks are still sending
                failure = error

        def outcome() -> list[int]:
            if failure is not None:
                raise failure
            return soup.kept

        kept = self._ranks.on_main(outcome)
        return [
            replace(one, kept=False, reason="held-out accuracy of the soup would fall")
            if one.kept and one.worker not in kept
            else one
            for one in summaries
        ]

    def merge(self, summaries: Sequence[WorkerSummary]) -> State:
        """Average the workers in the soup: one all-reduce of one flat buffer.

        The buffer holds this rank's float64 sum of all entries, and how many workers are in it;
        it travels as float32 (float64 if the model has float64 weights).
        """
        mine = [one for one in summaries if one.kept and one.rank == self._ranks.rank]
        if self._config.soup == "greedy":
            for one in mine:
                self._sum.add(self._states[one.worker])
        wide = any(tensor.dtype == torch.float64 for tensor in self._theta_star.values())
        count = self._sum.flat.new_tensor([len(mine)])
        reduced = self._ranks.all_reduce(
            torch.cat([self._sum.flat, count]), torch.float64 if wide else torch.float32
        )
        self._sum.flat = reduced[:-1]
        return self._sum.mean(float(reduced[-1]))

    def worker_states(self, summaries: Sequence[WorkerSummary]) -> list[State | None] | None:
        """With ``keep_workers``: every worker's state, on every rank and on the CPU."""
        if not self._config.keep_workers:
            return None
        gathered: list[State | None] = []
        for one in summaries:
            if one.reason == NOT_FINITE:
                gathered.append(None)
                continue
            state = self._states.get(one.worker, self._theta_star)
            shared = self._ranks.broadcast(state, source=one.rank)
            gathered.append({name: value.cpu() for name, value in shared.items()})
        return gathered

    def _train_one(
        self, task: WorkerTask, classes_missing: list[int], announce: Callable[[str], None]
    ) -> WorkerSummary:
        announce(f"worker {task.worker + 1} of {self._config.num_workers}")
        result = run_worker(task)
        self.evaluation_seconds += result.evaluation_seconds
        if result.finite and self._config.soup == "uniform":
            self._sum.add(result.state)
        if result.finite and self._holds:
            self._states[task.worker] = {
                name: value.to("cpu") for name, value in result.state.items()
            }
        return _summary(task, result, self._ranks.rank, classes_missing)


def _summary(
    task: WorkerTask, result: WorkerResult, rank: int, classes_missing: list[int]
) -> WorkerSummary:
    return WorkerSummary(
        worker=task.worker,
        rank=rank,
        samples=len(task.indices),
        steps=result.steps,
        passes=result.passes,
        loss=finite_or_none(result.loss),
        accuracy=result.accuracy,
        density=result.density,
        seconds=result.seconds,
        kept=result.finite,
        reason=None if result.finite else NOT_FINITE,
        classes_missing=classes_missing,
    )
