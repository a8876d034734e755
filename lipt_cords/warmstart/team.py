"""The team: trains and merges all workers of a warm start, divided among the ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from lipt_cords.base.registry import is_foreign
from lipt_cords.models.state import State, digest
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.codecs import CODECS, Member, Wire, merge_members
from lipt_cords.warmstart.merge.judge import Judge
from lipt_cords.warmstart.merge.outer import OUTER_STEPS
from lipt_cords.warmstart.merge.soup import Chosen, choose
from lipt_cords.warmstart.merge.trials import Trials
from lipt_cords.warmstart.progress import StepProgress
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.report import WorkerSummary
from lipt_cords.warmstart.round_inputs import RoundInputs
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.worker_results import LOST, NOT_FINITE, FinishedWorker, WorkerResults
from lipt_cords.warmstart.workers.together import run_workers
from lipt_cords.warmstart.workers.worker import WorkerResult

FINEST = 2**40
"""Soup weights that are not integers are rounded to 1 / FINEST of the largest."""


class Team:
    """Rank r of W trains workers r, r + W, ... and holds their weights until they are merged.

    Args:
        ranks: the processes.
        config: options of the warm start.
        results: holds finished workers; these are not trained again.
        judge: evaluates trial soups, on rank 0.
        progress: shows the steps.
    """

    def __init__(
        self,
        ranks: Ranks,
        config: WarmStartConfig,
        results: WorkerResults,
        judge: Judge,
        progress: StepProgress,
    ) -> None:
        self.ranks = ranks
        self._config, self._results, self._judge = config, results, judge
        self._progress = progress
        self.evaluation_seconds = 0.0
        self.residuals: dict[int, State] = {}
        """What the codec did not send in the last merge, of this rank's workers."""
        self.notes: list[str] = []
        """What the codec says in the report."""
        self._found: list[int] = []
        self._resumed = False

    def tick(self) -> None:
        """Note a step on this rank."""
        self.ranks.progress()
        self._progress.tick()

    def announce(self, what: str) -> None:
        """Show what is running."""
        self._progress.describe(what)

    def train(self, run: Run, inputs: RoundInputs) -> list[FinishedWorker]:
        """Train this rank's workers for a round and gather the results of all workers, in order.

        Raises:
            ValueError: a worker cannot read its shard, too few workers have finite weights, or a
                file of a finished worker was changed.
        """
        self._resumed = False
        self._results.begin_round(run.start, run.round)
        mine = range(self.ranks.rank, self._config.num_workers, self.ranks.size)

        def work() -> list[FinishedWorker]:
            done = [one for one in map(self._results.find, mine) if one is not None]
            self._found += [one.summary.worker for one in done]
            missing = [w for w in mine if w not in {one.summary.worker for one in done}]
            if missing:
                numbers = ", ".join(map(str, missing[:6])) + (", ..." if len(missing) > 6 else "")
                self.announce(f"workers {numbers} in round {run.round}")
            tasks = [inputs.task(worker, run, self.tick) for worker in missing]
            for result in run_workers(tasks):
                self.evaluation_seconds += result.evaluation_seconds
                done.append(self.keep(result, run.net_work))
            return done

        step = f"the workers of round {run.round}"
        finished = [one for part in self.ranks.everywhere(work, step) for one in part]
        finished += self._of_lost_ranks({one.summary.worker for one in finished})
        finished.sort(key=lambda one: one.summary.worker)
        self._require_enough([one.summary for one in finished])
        return finished

    def keep(self, result: WorkerResult, net_work: float) -> FinishedWorker:
        """Keep the result of a worker.

        Args:
            result: the worker.
            net_work: operations of the net that it trained over those of the given one.
        """
        stages = [
            stage | {key: stage[key] * net_work for key in ("planned", "counted")}
            for stage in result.stages
        ]
        return self._results.keep(replace(result, work=result.work * net_work, stages=stages))

    def choose(self, workers: Sequence[FinishedWorker]) -> Chosen:
        """Choose the workers in the soup, and their weights; the same on every rank.

        Raises:
            ValueError: the registered soup chose others on another rank.
        """
        self.announce("soup")
        able = [one for one in workers if one.summary.kept]
        mine = [one.summary.worker for one in able if one.summary.rank == self.ranks.rank]
        self.ranks.everywhere(lambda: self._results.require(mine), "workers before the soup")
        trials = Trials(
            self.ranks,
            self._results.start,
            {one.summary.worker: one.summary.rank for one in able},
            self._results.state_of,
            [one.largest for one in able],
            self._judge.trial,
        )
        chosen = choose([one.summary for one in workers], self._config.soup, trials)
        picks = self.ranks.everywhere(lambda: chosen.weights, "the soup")
        for rank, there in zip(self.ranks.live, picks, strict=True):
            if there != chosen.weights:
                raise ValueError(
                    f"soup {self._config.soup!r} chose the weights {there} on rank {rank} and "
                    f"{chosen.weights} here: it must choose alike on every rank, so let it draw "
                    "from a fixed seed"
                )
        return chosen

    def merge(
        self, net: nn.Module, workers: Sequence[FinishedWorker], chosen: Chosen
    ) -> tuple[State, list[FinishedWorker]]:
        """Average the workers in the soup by the codec.

        Args:
            net: whose states they are.
            workers: of all ranks.
            chosen: those in the soup.

        Returns:
            The average, and all workers; those of a rank that was lost during the merge are not
            kept.
        """
        weights = whole_weights(chosen.weights)
        owners = {one.worker: one.rank for one in chosen.summaries if one.kept}
        mine = [
            Member(worker, weights[worker], self._reader(worker))
            for worker, rank in owners.items()
            if rank == self.ranks.rank
        ]
        largest = [one.largest for one in workers if one.summary.worker in weights]
        wire = Wire(
            self.ranks,
            weights,
            owners,
            torch.stack(largest).amax(0),
            parameters=[name for name, _ in net.named_parameters(remove_duplicate=False)],
            residuals=self.residuals,
        )
        average = merge_members(self._config.codec, self._results.start, mine, wire)
        self.residuals = dict(wire.kept)
        self.notes += [one for one in wire.notes if one not in self.notes]
        after = [
            replace(one, kept=False, reason=LOST) if one.rank not in self.ranks.live else one
            for one in chosen.summaries
        ]
        self._require_enough(after)
        return average, [
            replace(one, summary=summary) for one, summary in zip(workers, after, strict=True)
        ]

    def agreed(self, start: State, memory: State) -> State:
        """The start of the next round; compared between the ranks where a user's code made it.

        Args:
            start: what the codec and the outer step made.
            memory: of the outer step.

        Raises:
            ValueError: ranks have other bits; they are named, and whose code it was.
        """
        makers = (
            ("codec", CODECS, self._config.codec),
            ("outer step", OUTER_STEPS, self._config.outer),
        )
        foreign = [
            f"{kind} {name!r}"
            for kind, found, name in makers
            if is_foreign(found.entry(name).module)
        ]
        if foreign and self.ranks.size > 1:
            whole = {**start, **{f"memory of {name}": value for name, value in memory.items()}}
            bits = self.ranks.everywhere(
                lambda: digest(dict(sorted(whole.items()))), "the merged weights"
            )
            for rank, theirs in zip(self.ranks.live, bits, strict=True):
                if theirs != bits[0]:
                    raise ValueError(
                        f"rank {rank} has other merged weights than rank {self.ranks.live[0]}: "
                        f"{' and '.join(foreign)} must give the same bits on every rank, so let "
                        "nothing depend on the rank, the time or draws without a seed"
                    )
        return start

    def resume_after(self, start: State, number: int, residuals: dict[int, State]) -> None:
        """Resume after the stored merge of a round; its workers are stored with it."""
        self._resumed, self.residuals = True, residuals
        self._results.begin_round(start, number)

    def found(self) -> list[int]:
        """Workers that were read from ``work_dir``, in any round, on any rank."""
        found = self.ranks.everywhere(lambda: self._found, "workers found in work_dir")
        return sorted({one for part in found for one in part})

    def worker_states(self, summaries: Sequence[WorkerSummary]) -> list[State | None] | None:
        """With ``keep_workers``: every worker's state, on every rank and on the CPU."""
        if not self._config.keep_workers:
            return None
        gathered: list[State | None] = []
        for one in summaries:
            owner = one.worker % self.ranks.size if self._resumed else one.rank
            if one.reason == NOT_FINITE or owner not in self.ranks.live:
                gathered.append(None)
                continue
            state = self._results.start
            if owner == self.ranks.rank:
                state = self._results.state_of(one.worker)
            shared = self.ranks.broadcast(state, source=owner)
            gathered.append({name: value.cpu() for name, value in shared.items()})
        return gathered

    def _reader(self, worker: int) -> Callable[[], State]:
        return lambda: self._results.state_of(worker)

    def _of_lost_ranks(self, heard: set[int]) -> list[FinishedWorker]:
        """Workers of lost ranks: read by rank 0 from disk if possible, else marked as lost."""
        if len(heard) == self._config.num_workers:
            return []
        missing = [w for w in range(self._config.num_workers) if w not in heard]

        def look() -> list[FinishedWorker]:
            results, size = self._results, self.ranks.size
            return [results.find(w) or results.lost(w, w % size) for w in missing]

        return self.ranks.on_main(look, "workers of lost ranks")

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


def whole_weights(weights: Mapping[int, float]) -> dict[int, int]:
    """Weights as whole numbers, which ranks can add in any order: as small as they can be.

    >>> whole_weights({0: 12_000, 1: 6_000}), whole_weights({0: 1})
    ({0: 2, 1: 1}, {0: 1})
    """
    values = list(weights.values())
    if all(isinstance(value, int) for value in values):
        shared = math.gcd(*(int(value) for value in values))
        if sum(values) / shared < 2**53:
            return {worker: int(weight) // shared for worker, weight in weights.items()}
    most, finest = max(values), min(FINEST, 2**53 // len(values))
    return {worker: max(1, round(weight / most * finest)) for worker, weight in weights.items()}
