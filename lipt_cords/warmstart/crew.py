"""All workers of a run, shared out among the ranks: trained, chosen, and merged into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lipt_cords.models.state import State
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.fixed_point import ExactSum
from lipt_cords.warmstart.merge.soup import GreedySoup, Judge
from lipt_cords.warmstart.plan import Plan
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.report import WorkerSummary
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.resume.workers import LOST, NOT_FINITE, Finished, Holding
from lipt_cords.warmstart.workers.together import run_workers
from lipt_cords.warmstart.workers.worker import WorkerResult, WorkerTask


class Crew:
    """Rank r of W trains workers r, r + W, ... and holds their weights until they are merged.

    With a folder they are held there and not in memory, and those that are finished already are
    not trained again.

    Args:
        ranks: the processes.
        config: options of the warm start.
        plan: the shards.
        folder: where finished workers are kept, or None.
    """

    def __init__(
        self, ranks: Ranks, config: WarmStartConfig, plan: Plan, folder: RunFolder | None
    ) -> None:
        self._ranks, self._config, self._plan = ranks, config, plan
        self._holding = Holding(ranks.rank, plan, folder)
        self.evaluation_seconds = 0.0
        self._loaded: list[int] = []
        self._resumed = False

    def train(
        self,
        start: State,
        number: int,
        task_of: Callable[[int], WorkerTask],
        announce: Callable[[str], None],
        net_work: float = 1.0,
    ) -> list[Finished]:
        """Train this rank's workers for a round and gather what everyone's say, in worker order.

        Args:
            start: the weights that all start from.
            number: of the round.
            task_of: the task of a worker.
            announce: says what is running.
            net_work: operations of the net that they train over those of the given one.

        Raises:
            ValueError: a worker cannot read its shard, fewer workers than are needed have finite
                weights, or a file of a finished worker is not what it should be.
        """
        self._resumed = False
        self._holding.stand_at(start, number)
        mine = range(self._ranks.rank, self._config.num_workers, self._ranks.size)

        def work() -> list[Finished]:
            done = [one for one in map(self._holding.find, mine) if one is not None]
            self._loaded += [one.summary.worker for one in done]
            missing = [w for w in mine if w not in {one.summary.worker for one in done}]
            if missing:
                last = missing[-1] + 1
                announce(f"workers {missing[0] + 1} to {last}, round {number + 1}")
            for result in run_workers([task_of(worker) for worker in missing]):
                self.evaluation_seconds += result.evaluation_seconds
                done.append(self.take(result, net_work))
            return done

        heard = [one for part in self._ranks.everywhere(work) for one in part]
        heard += self._adopt({one.summary.worker for one in heard})
        finished = sorted(heard, key=lambda one: one.summary.worker)
        self._require_enough([one.summary for one in finished])
        return finished

    def stand_after(self, start: State, number: int) -> None:
        """Take up after the merge of a round that is in the folder, and its workers beside it."""
        self._resumed = True
        self._holding.stand_at(start, number)

    def take(self, result: WorkerResult, net_work: float = 1.0) -> Finished:
        """Hold a worker that was trained just now."""
        stages = [
            stage | {key: stage[key] * net_work for key in ("planned", "counted")}
            for stage in result.stages
        ]
        return self._holding.keep(replace(result, work=result.work * net_work, stages=stages))

    def take_up(self, summary: WorkerSummary, state: State | None) -> Finished:
        """Hold a worker that was trained before; None for one whose weights are not finite."""
        return self._holding.hold(summary, state)

    def choose(self, finished: Sequence[Finished], judge: Judge) -> list[WorkerSummary]:
        """Decide who is in the soup; for a greedy soup rank 0 tries them from the best down."""
        summaries = [one.summary for one in finished]
        if self._config.soup == "greedy":
            kept = self._greedy(summaries, judge)
            summaries = [
                replace(one, kept=False, reason="held-out accuracy of the soup would fall")
                if one.kept and one.worker not in kept
                else one
                for one in summaries
            ]
        return summaries

    def merge(
        self, finished: Sequence[Finished], summaries: Sequence[WorkerSummary]
    ) -> tuple[State, list[WorkerSummary]]:
        """Average the workers in the soup: one all-reduce of one flat buffer of integers.

        The buffer holds this rank's exact sum of changes, how many workers are in it, and their
        weight; so the mean is right even if a rank is lost on the way.

        Returns:
            The average, and the summaries, in which workers of a rank that was lost on the way
            are not kept.
        """
        kept = [one.worker for one in summaries if one.kept]
        largest = [one.largest for one in finished if one.summary.worker in kept]
        sizes = {worker: len(self._plan.shards[worker]) for worker in kept}
        weights = sizes if self._config.soup == "weighted" else dict.fromkeys(kept, 1)
        total = ExactSum(
            self._holding.start,
            len(kept),
            torch.stack(largest).amax(0),
            max(weights.values()),
        )
        mine = [one.worker for one in summaries if one.kept and one.rank == self._ranks.rank]
        for worker in mine:
            state = self._holding.state_of(worker)
            if state is not None:
                total.add(state, weights[worker])
        tail = torch.tensor([len(mine), sum(weights[worker] for worker in mine)])
        summed = self._ranks.sum_integers(torch.cat([total.total, tail]), total.dtype)
        after = [
            replace(one, kept=False, reason=LOST) if one.rank not in self._ranks.live else one
            for one in summaries
        ]
        self._require_enough(after)
        return total.mean(summed[:-2], float(summed[-1]), int(summed[-2])), after

    def found(self) -> list[int]:
        """Workers of this rank that were finished already, in any round."""
        return self._loaded

    def worker_states(self, summaries: Sequence[WorkerSummary]) -> list[State | None] | None:
        """With ``keep_workers``: every worker's state, on every rank and on the CPU."""
        if not self._config.keep_workers:
            return None
        gathered: list[State | None] = []
        for one in summaries:
            owner = one.worker % self._ranks.size if self._resumed else one.rank
            if one.reason == NOT_FINITE or owner not in self._ranks.live:
                gathered.append(None)
                continue
            state = self._holding.state_of(one.worker) if owner == self._ranks.rank else None
            shared = self._ranks.broadcast(state or self._holding.start, source=owner)
            gathered.append({name: value.cpu() for name, value in shared.items()})
        return gathered

    def _adopt(self, heard: set[int]) -> list[Finished]:
        """Workers of lost ranks: what they wrote where rank 0 can read it, else their names."""
        if len(heard) == self._config.num_workers:
            return []
        missing = [w for w in range(self._config.num_workers) if w not in heard]

        def look() -> list[Finished]:
            holding, size = self._holding, self._ranks.size
            return [holding.find(w) or holding.lost(w, w % size) for w in missing]

        return self._ranks.on_main(look)

    def _require_enough(self, summaries: Sequence[WorkerSummary]) -> None:
        without = [one for one in summaries if not one.kept]
        if len(without) == len(summaries) and not any(one.reason == LOST for one in without):
            raise ValueError(
                f"all {len(summaries)} workers ended with weights that are not finite: lower lr "
                f"(received {self._config.lr:g})"
            )
        kept, needed = len(summaries) - len(without), self._config.min_workers or 1
        if kept < needed:
            reasons = "; ".join(f"worker {one.worker} {one.reason}" for one in without)
            raise ValueError(
                f"{kept} workers can be merged, expected at least {needed} (min_workers): {reasons}"
            )

    def _greedy(self, summaries: Sequence[WorkerSummary], judge: Judge) -> list[int]:
        ranking = [one for one in summaries if one.kept]
        ranking.sort(key=lambda one: (-(one.accuracy or 0), one.worker))
        soup, failure = GreedySoup(self._holding.start, judge.trial), None
        for one in ranking:
            held = self._holding.state_of(one.worker) if one.rank == self._ranks.rank else None
            state = self._ranks.to_main(held, one.rank, like=self._holding.start)
            try:
                if state is not None and failure is None:
                    soup.offer(one.worker, state)
            except Exception as error:  # the other ranks are still sending
                failure = error

        def outcome() -> list[int]:
            if failure is not None:
                raise failure
            return soup.kept

        return self._ranks.on_main(outcome)
