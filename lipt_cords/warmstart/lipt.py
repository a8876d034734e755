"""The phases of a warm start in their order: common start, rounds of workers and merges, finish."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from lipt_cords.models.state import State, on_cpu, tensor_state
from lipt_cords.training.cheaper.tickets import Drawn
from lipt_cords.warmstart.bill import make_report, over_rounds, seconds_by_phase
from lipt_cords.warmstart.clock import Clock
from lipt_cords.warmstart.common_start import CommonStart, find_or_train
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.crew import Crew
from lipt_cords.warmstart.merge.outer import OuterOptimizer
from lipt_cords.warmstart.merge.soup import Judge
from lipt_cords.warmstart.progress import StepProgress
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.report import WorkerSummary
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.resume.rounds import History
from lipt_cords.warmstart.resume.workers import Finished
from lipt_cords.warmstart.round_inputs import Material, Outcome
from lipt_cords.warmstart.ticket import SmallerNet
from lipt_cords.warmstart.watch.probe import Probe
from lipt_cords.warmstart.workers.worker import WorkerTask, local_steps


class Rounds:
    """One warm start on one rank.

    Args:
        config: the options.
        ranks: the processes.
        material: what to work on.
        folder: where finished work is kept, or None.
        clock: which the phases are charged to.
    """

    def __init__(
        self,
        config: WarmStartConfig,
        ranks: Ranks,
        material: Material,
        folder: RunFolder | None,
        clock: Clock,
    ) -> None:
        self._config, self._ranks, self._material = config, ranks, material
        self._folder, self._clock = folder, clock
        self._resumed_after = 0  # rounds
        self._dense_forward_flops = material.forward_flops
        self._smaller: SmallerNet | None = None
        if config.early_bird is not None and config.early_bird.ratio > 0:
            self._smaller = SmallerNet(config, config.early_bird, material)
        self._crew = Crew(ranks, config, material.plan, folder)
        self._judge = Judge(
            copy.deepcopy(material.model),
            material.dataset,
            material.labels,
            config,
            material.validation,
        )
        self._outer = OuterOptimizer(
            config.outer,
            [name for name, _ in material.model.named_parameters(remove_duplicate=False)],
            lr=config.outer_lr,
            momentum=config.outer_momentum,
        )

    def run(self) -> Outcome:
        """Train the common start, then workers round by round, and finish the merged model."""
        ranks, config, shards = self._ranks, self._config, self._material.plan.shards
        steps = config.common_steps + sum(
            local_steps(config, len(shard)) for shard in shards[ranks.rank :: ranks.size]
        )
        with StepProgress(steps, config.progress if ranks.is_main else False) as bar:

            def tick() -> None:
                ranks.progress()
                bar.tick()

            with self._clock.phase("common"):
                bar.describe("common start")
                common, theta_star = self._common_start(tick)
                whole_theta_star = self._expanded(theta_star)
                start, history = self._resumed(theta_star, common)
                if history.rounds:
                    self._resumed_after = len(history.rounds)
                    self._crew.stand_after(start, len(history.rounds) - 1)
            while len(history.rounds) < history.planned(config):
                start = self._round(start, history, tick, bar.describe)
            with self._clock.phase("refresh"):
                finish = ranks.on_main(lambda: self._judge.finish(start))
        states = self._crew.worker_states(history.last_summaries)
        seconds = seconds_by_phase(self._clock, self._crew.evaluation_seconds, history.rounds)
        loaded = sorted({one for part in ranks.everywhere(self._crew.found) for one in part})
        report = ranks.on_main(
            lambda: make_report(
                self._material.plan,
                common.passes,
                over_rounds(history.summaries),
                history.rounds,
                self._judge,
                finish,
                flops=self._material.flops,
                forward_flops=(self._dense_forward_flops, self._material.forward_flops),
                common_work=history.common_work,
                dense_forward_passes=history.dense_forward_passes,
                ticket=None if self._smaller is None else self._smaller.summary(),
                ranks=ranks.size,
                sent=ranks.bytes_communicated,
                weight_bytes=ranks.weight_bytes,
                forward_passes=history.forward_passes,
                stopped_early=len(history.rounds) < config.rounds,
                seconds=seconds,
                notes=self._notes(loaded),
            )
        )
        if states is not None:
            states = [None if state is None else self._expanded(state) for state in states]
        return Outcome(
            self._expanded(on_cpu(start) | finish.buffers),
            on_cpu(whole_theta_star),
            report,
            states,
            None if self._smaller is None else self._smaller.ticket,
        )

    def _common_start(self, tick: Callable[[], None]) -> tuple[CommonStart, State]:
        """theta* on every rank: trained by rank 0, or read from its folder."""
        trained: State = {}

        def train() -> CommonStart:
            done, state = find_or_train(
                self._config, self._material, self._folder, self._smaller, tick
            )
            trained.update(state)
            return done

        done = self._ranks.on_main(train)
        if done.drawn is not None:
            self._adopt(done.drawn)
        model = self._material.model
        if trained:  # on rank 0
            model.load_state_dict(trained)
        return done, self._ranks.broadcast(tensor_state(model))

    def _adopt(self, drawn: Drawn) -> None:
        """Go on with the ticket's net."""
        if self._smaller is None:
            raise ValueError("work_dir holds an Early-Bird ticket, but early_bird is not set")
        self._material = self._smaller.adopt(drawn, self._material.model)
        self._judge.model = copy.deepcopy(self._material.model)
        self._outer.velocity = self._smaller.gather(self._outer.velocity)

    def _vote(self, start: State, history: History) -> State:
        """Look at the scales of a merge; the start of the next round, on the ticket's net if drawn.

        Every rank has the same merge, and so draws the same ticket.
        """
        smaller, number = self._smaller, len(history.rounds)
        if smaller is None or not smaller.options.vote or history.drawn is not None:
            return start
        settled = smaller.search.look(start)
        history.masks = smaller.search.masks
        if not settled and number < smaller.latest_round:
            return start
        if number >= history.planned(self._config):
            return start  # stopped early: nothing would train the ticket
        judge = self._judge
        history.dense_forward_passes = (
            history.forward_passes + judge.evaluation_passes + judge.refresh_passes
        )
        history.drawn = smaller.draw({"rounds": number})
        self._adopt(history.drawn)
        return smaller.gather(start)

    def _expanded(self, state: State) -> State:
        """A state in the given net's shapes."""
        return state if self._smaller is None else self._smaller.expand(state)

    def _resumed(self, theta_star: State, common: CommonStart) -> tuple[State, History]:
        """Where to go on: after the last merge in rank 0's folder, or at theta*."""

        def look() -> tuple[History, State, State] | None:
            return None if self._folder is None else History.find(self._folder)

        start, velocity = theta_star, self._outer.zeros(theta_star)
        stored: list[State] = []

        def history_alone() -> History | None:
            found = look()
            stored.extend(found[1:] if found is not None else [])
            return None if found is None else found[0]

        history = self._ranks.on_main(history_alone)
        if history is None:
            return theta_star, History(common.passes, common.work(self._material.net_work))
        if self._smaller is not None and history.masks:
            self._smaller.search.masks = list(history.masks)
        if self._smaller is not None and history.drawn is not None:
            self._adopt(history.drawn)
            start, velocity = self._smaller.gather(start), self._smaller.gather(velocity)
        if stored:  # on rank 0
            start, velocity = stored
            self._judge.evaluation_passes, self._judge.refresh_passes = history.judged_passes
        start = self._ranks.broadcast(start)
        if self._config.outer == "nesterov":
            self._outer.velocity = self._ranks.broadcast(velocity)
        return start, history

    def _round(
        self,
        start: State,
        history: History,
        tick: Callable[[], None],
        announce: Callable[[str], None],
    ) -> State:
        """Train every worker from one start, merge them, and give the start of the next round."""
        number, given, config = len(history.rounds), self._material, self._config
        exchanged = self._ranks.weight_bytes
        given.model.load_state_dict(start)
        last = number == history.planned(config) - 1

        voting = self._smaller is not None and self._smaller.options.vote and not history.drawn

        def task_of(worker: int) -> WorkerTask:
            return WorkerTask(
                worker=worker,
                model=given.model,
                head=given.plan.head,
                dataset=given.dataset,
                indices=given.plan.shards[worker],
                config=config,
                loss=given.loss,
                round=number,
                decay=history.decay(config),
                validation=given.validation if last or config.soup == "greedy" else None,
                probe=self._probe(history),
                pool=given.pool,
                search=voting,
                block_shares=given.block_shares,
                tick=tick,
            )

        with self._clock.phase("workers"):
            finished = self._crew.train(start, number, task_of, announce, given.net_work)
        announce("soup")
        with self._clock.phase("soup"):
            chosen = self._crew.choose(finished, self._judge)
            average, summaries = self._crew.merge(finished, chosen)
            start = self._outer.step(start, average)
            exchanged = self._ranks.weight_bytes - exchanged
            self._note(history, finished, summaries, start, exchanged)
            start = self._vote(start, history)
            self._settle(history, start)
        return start

    def _settle(self, history: History, start: State) -> None:
        """Write a merge, forget the files of earlier rounds, and tell the caller of it."""
        folder, tell, judge = self._folder, self._material.on_round, self._judge
        number = len(history.rounds) - 1

        def settle() -> bool:
            written = False
            if folder is not None:
                history.judged_passes = (judge.evaluation_passes, judge.refresh_passes)
                written = history.keep(folder, start, self._outer.velocity)
                if written:
                    folder.forget_before(number)
            if tell is not None:
                # Copies, for the next round starts from these weights.
                state = {name: value.clone() for name, value in self._expanded(start).items()}
                tell(copy.deepcopy(history.rounds[-1]), state)
            return written

        # Where the folder is not shared, the others have files of earlier rounds too.
        if self._ranks.on_main(settle) and folder is not None and not self._ranks.is_main:
            folder.forget_before(number)

    def _note(
        self,
        history: History,
        finished: Sequence[Finished],
        summaries: Sequence[WorkerSummary],
        merged: State,
        weight_bytes: int,
    ) -> None:
        """Put a round into the history; every rank ends with the same one."""
        probe = self._probe(history)
        kept = {one.worker for one in summaries if one.kept}
        readings = [
            one.reading
            for one in finished
            if one.summary.worker in kept and one.reading is not None
        ]
        reading = None
        if probe is not None and self._config.rounds > 1:
            # One merge is judged by the finish; more are compared with each other.
            reading = self._ranks.on_main(lambda: self._judge.read(merged, probe))
            history.forward_passes += len(probe)
        history.forward_passes += sum(one.forward_passes for one in finished)
        history.add(summaries, readings, reading, weight_bytes, self._config)

    def _probe(self, history: History) -> Probe | None:
        """The probe, in the rounds in which workers are compared."""
        every = self._config.probe_every or max(1, self._config.rounds // 8)
        number = len(history.rounds) + 1
        due = number % every == 0 or number == history.planned(self._config)
        return self._material.probe if due else None

    def _notes(self, loaded: Sequence[int]) -> list[str]:
        notes = []
        if self._smaller is not None and self._smaller.ticket is None:
            notes.append("the rounds ended before an Early-Bird ticket was drawn: there is none")
        if self._resumed_after:
            notes.append(f"went on from the merge of round {self._resumed_after} in work_dir")
        if loaded:
            named = ", ".join(map(str, loaded))
            notes.append(f"found finished in work_dir and not trained again: workers {named}")
        if self._folder is not None and self._folder.unwritten:
            named = ", ".join(self._folder.unwritten)
            notes.append(f"could not be written to work_dir: {named}")
        return notes
