"""Making the runs of a comparison, in turn or in several processes, sharing warm starts.

Runs whose warm starts are equal share one: it is fitted once, and every run's record carries its
whole cost. What a run raises is in its record; a process that dies loses only its own runs.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import torch

from lipt_cords.base.process_memory import PeakMemory, keep_freed_memory
from lipt_cords.base.registry import foreign_modules, import_modules
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.assemble import pick_device
from lipt_cords.experiments.compare_plan import PlannedRun
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.run import fit_warm_start, load_splits, run
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.warmstart.result import WarmStartResult

logger = logging.getLogger(__name__)

OnPoint = Callable[[CurvePoint], None]
OnStart = Callable[[PlannedRun], None]
Made = tuple[PlannedRun, RunRecord]

_child: dict[str, Any] = {}
"""What a child process keeps between units: its data, and the queue to the parent."""


def make_runs(
    units: Sequence[Sequence[PlannedRun]],
    splits: DataSplits,
    *,
    jobs: int = 1,
    on_start: OnStart | None = None,
    on_point: OnPoint | None = None,
) -> Iterator[Made]:
    """Make all runs; each is yielded as soon as it has ended.

    Args:
        units: runs that share a warm start stand in one.
        splits: the data; other processes read them anew.
        jobs: processes; 1 runs here, in order.
        on_start: called before every run; with several jobs before every unit's first.
        on_point: called with every point of every curve, with one job.
    """
    if jobs == 1 or len(units) < 2:
        for unit in units:
            yield from _make_unit(unit, splits, on_start, on_point)
    else:
        yield from _in_processes(units, min(jobs, len(units)), on_start)


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


def _in_processes(
    units: Sequence[Sequence[PlannedRun]], jobs: int, on_start: OnStart | None
) -> Iterator[Made]:
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    with multiprocessing.Manager() as manager:
        ended: Any = manager.Queue()
        with ProcessPoolExecutor(
            jobs,
            mp_context=context,
            initializer=_begin,
            initargs=(ended, threads, foreign_modules()),
        ) as pool:
            waiting: dict[Future[None], int] = {}
            for number, unit in enumerate(units):
                waiting[pool.submit(_work, number, unit)] = number
                if on_start is not None:
                    on_start(unit[0])
            seen: set[tuple[str, float, int]] = set()
            while waiting:
                done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for number, place, record in _drained(ended):
                    planned = units[number][place]
                    seen.add(planned.key)
                    yield planned, record
                for future in done:
                    unit, error = units[waiting.pop(future)], future.exception()
                    why = "its process ended early; too little memory often is the cause"
                    for planned in unit:
                        if error is not None and planned.key not in seen:
                            yield planned, failed(planned, f"{type(error).__name__}: {why}")


def _drained(ended: Any) -> Iterator[tuple[int, int, RunRecord]]:
    while True:
        try:
            yield ended.get_nowait()
        except queue.Empty:
            return


def _begin(ended: Any, threads: int, modules: Sequence[str]) -> None:
    for module in modules:  # first: what follows may ask for names that they register
        try:
            import_modules([module])
        except ValueError as error:  # a run that needs such a name fails and says so
            logger.warning("a process of this comparison lacks names: %s", error)
    torch.set_num_threads(threads)
    keep_freed_memory()
    _child.update(ended=ended, splits=None)


def _work(number: int, unit: Sequence[PlannedRun]) -> None:
    splits = _child_splits(unit[0].config)
    for place, (_, record) in enumerate(_make_unit(unit, splits)):
        _child["ended"].put((number, place, record))


def _child_splits(config: RunConfig) -> DataSplits:
    if _child["splits"] is None:
        _child["splits"] = load_splits(config)
    splits: DataSplits = _child["splits"]
    return splits
