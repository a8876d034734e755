"""Making the runs of a comparison, in turn or in several processes, sharing warm starts.

Runs whose warm starts are equal share one: it is fitted once, and every run's record carries its
whole cost. What a run raises is in its record; a process that dies loses only the run that it made.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from lipt_cords.base.children import (
    LAST_SECONDS,
    end_all,
    end_with_parent,
    how_it_ended,
    start_context,
)
from lipt_cords.base.process_memory import PeakMemory, keep_freed_memory
from lipt_cords.base.registry import foreign_modules, import_modules
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.assemble import pick_device
from lipt_cords.experiments.compare_plan import PlannedRun
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.run import fit_warm_start, load_splits, run
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.warmstart.progress import hush
from lipt_cords.warmstart.result import WarmStartResult

logger = logging.getLogger(__name__)

OnPoint = Callable[[CurvePoint], None]
OnStart = Callable[[PlannedRun], None]
OnWait = Callable[[Sequence[tuple[PlannedRun, CurvePoint | None]]], None]
"""Called with the runs that go on, each with its last point."""
Made = tuple[PlannedRun, RunRecord]
WAIT_SECONDS = 5.0
"""Longest time between two calls of ``on_wait``."""


def make_runs(
    units: Sequence[Sequence[PlannedRun]],
    splits: DataSplits,
    *,
    jobs: int = 1,
    on_start: OnStart | None = None,
    on_point: OnPoint | None = None,
    on_wait: OnWait | None = None,
) -> Iterator[Made]:
    """Make all runs; each is yielded as soon as it has ended.

    Args:
        units: runs that share a warm start stand in one.
        splits: the data; other processes read them anew.
        jobs: processes; 1 runs here, in order.
        on_start: called before every run; with several jobs before every unit's first.
        on_point: called with every point of every curve, with one job.
        on_wait: called every few seconds with the runs that go on, with several.
    """
    if jobs == 1 or len(units) < 2:
        for unit in units:
            yield from _make_unit(unit, splits, on_start, on_point)
    else:
        yield from _in_processes(units, min(jobs, len(units)), on_start, on_wait)


def _make_unit(
    unit: Sequence[PlannedRun],
    splits: DataSplits,
    on_start: OnStart | None = None,
    on_point: OnPoint | None = None,
) -> Iterator[Made]:
    fitted: WarmStartResult | None = None
    shared: dict[str, int] = {}
    for planned in unit:
        if on_start is not None:
            on_start(planned)
        config = planned.config.updated(train_args={"seed": planned.seed})
        try:
            if planned.warm_start is not None and fitted is None and len(unit) > 1:
                memory = PeakMemory(pick_device(config.train_args.device, []))
                fitted = fit_warm_start(config, splits=splits)
                shared = memory.read()
            record = run(
                config, method=planned.method.name, splits=splits, warm=fitted, on_point=on_point
            )
        except Exception as error:
            logger.debug("%s failed", planned.key, exc_info=True)
            record = failed(planned, f"{type(error).__name__}: {error}")
        if record is not None:
            for name, peak in record.peak_memory_bytes.items():
                record.peak_memory_bytes[name] = max(peak, shared.get(name, 0))
            yield planned, record


def failed(planned: PlannedRun, why: str) -> RunRecord:
    """The record of a run that did not end well."""
    config = planned.config.updated(train_args={"seed": planned.seed})
    return RunRecord(planned.method.name, planned.seed, config.to_dict(), "failed", why)


class _Child:
    """A process that makes units of runs, one after another.

    Args:
        threads: CPU threads of it.
        modules: to import, which may register names.
    """

    def __init__(self, threads: int, modules: Sequence[str]) -> None:
        context: Any = start_context(__name__)
        self.pipe, theirs = context.Pipe()
        with theirs:
            self.process = context.Process(target=_serve, args=(theirs, threads, modules))
            self.process.start()
        self.unit: list[PlannedRun] = []
        """Its runs that have not ended; without any it is free."""
        self.point: CurvePoint | None = None
        """Where the first of them is."""

    def give(self, unit: Sequence[PlannedRun]) -> None:
        """Let it make a unit of runs."""
        self.unit = list(unit)
        with suppress(OSError):  # it has died, which its end tells
            self.pipe.send(self.unit)

    def hear(self) -> Iterator[Made]:
        """The runs that have ended since the last call."""
        try:
            while self.unit and self.pipe.poll():
                said: RunRecord | CurvePoint = self.pipe.recv()
                if isinstance(said, CurvePoint):
                    self.point = said
                    continue
                self.point = None
                yield self.unit.pop(0), said
        except (EOFError, OSError):  # it has died, which its end tells
            return

    def end(self) -> None:
        """End it, whatever it does."""
        self.pipe.close()  # a free one ends by that
        end_all([self.process], LAST_SECONDS, ask=bool(self.unit))


def _in_processes(
    units: Sequence[Sequence[PlannedRun]],
    jobs: int,
    on_start: OnStart | None,
    on_wait: OnWait | None,
) -> Iterator[Made]:
    waiting = deque(units)
    threads = max(1, torch.get_num_threads() // jobs)
    children: list[_Child] = []
    try:
        while waiting or any(one.unit for one in children):
            free = [one for one in children if not one.unit]
            while waiting and (free or len(children) < jobs):
                if not free:
                    children.append(_Child(threads, foreign_modules()))
                unit = waiting.popleft()
                if on_start is not None:
                    on_start(unit[0])
                (free.pop() if free else children[-1]).give(unit)
            busy = [one for one in children if one.unit]
            wait(
                [*(one.pipe for one in busy), *(one.process.sentinel for one in busy)],
                None if on_wait is None else WAIT_SECONDS,
            )
            for one in busy:
                code = one.process.exitcode
                yield from one.hear()
                if code is None or not one.unit:
                    continue
                # A death takes its own run along; those that follow it in its unit are made anew.
                lost, *others = one.unit
                why = f"its process (pid {one.process.pid}) {how_it_ended(code)}"
                children.remove(one)
                one.end()
                if others:
                    waiting.appendleft(others)
                yield lost, failed(lost, why)
            if on_wait is not None:
                on_wait([(one.unit[0], one.point) for one in busy if one.unit])
    finally:
        for one in children:
            one.end()


def _serve(pipe: Connection, threads: int, modules: Sequence[str]) -> None:
    """In a new process: make what comes, until the parent closes the pipe."""
    end_with_parent()
    for module in modules:  # first: what follows may ask for names that they register
        try:
            import_modules([module])
        except ValueError as error:  # a run that needs such a name fails and says so
            logger.warning("a process of this comparison lacks names: %s", error)
    torch.set_num_threads(threads)
    keep_freed_memory()
    hush()  # the plan has told what warm starts cost
    splits: DataSplits | None = None
    while True:
        try:
            unit: list[PlannedRun] = pipe.recv()
        except EOFError:
            return
        try:
            splits = load_splits(unit[0].config) if splits is None else splits
        except Exception as error:  # the data have changed since the comparison began
            for planned in unit:
                pipe.send(failed(planned, f"{type(error).__name__}: {error}"))
            continue
        for _, record in _make_unit(unit, splits, on_point=pipe.send):
            pipe.send(record)
