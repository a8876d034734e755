"""Methods side by side, seed by seed, under one budget of subset epochs.

Random and RS2 stand beside everything, and so does one worker that trains as long as LiPT's
critical path. A run that fails is listed with its error and never averaged away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lipt_cords.assembly import subset_size_of
from lipt_cords.files import output_directory, write_json
from lipt_cords.methods import (
    DEFAULT_METHODS,
    Calendar,
    Method,
    check_order,
    configure,
    plan_calendar,
)
from lipt_cords.provenance import provenance
from lipt_cords.records import CurvePoint, RunRecord
from lipt_cords.report import reading, summarise
from lipt_cords.run_config import RunConfig
from lipt_cords.runs import RESULTS, SCHEMA, is_main_process, load_splits, run

logger = logging.getLogger(__name__)

OnRun = Callable[[str, int, RunRecord | None], None]
"""Called with method, seed, and None before a run or its record after it."""


def compare(
    config: RunConfig,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: Iterable[int] = (0, 1, 2),
    warm_epochs: int | None = None,
    output: str | Path | None = None,
    on_run: OnRun | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> dict[str, Any]:
    """Run every method with every seed.

    Args:
        config: data, net, optimizer, strategy, and the LiPT warm start.
        methods: names of :class:`lipt_cords.methods.Method`, such as ``lipt`` or ``lipt+random``.
        seeds: one run of each method a seed.
        warm_epochs: full-data epochs that LiPT replaces; None takes what the file's kappa says,
            or 15.
        output: directory for ``results.json``, rewritten whole after every run; None writes
            nothing.
        on_run: called before and after every run.
        on_point: called with every point of every curve.

    Returns:
        What ``results.json`` holds: ``runs``, ``summary`` (a row a method) and ``reading`` (a
        paragraph).

    Raises:
        ValueError: an unknown method, one that spends what LiPT spends without a LiPT run before
            it, no seed, or data that is not there. Whatever a single run
            raises is in its record instead.
    """
    contenders = [Method.parse(name) for name in dict.fromkeys(methods)]
    chosen = list(dict.fromkeys(seeds))
    if not contenders or not chosen:
        raise ValueError("a comparison needs at least one method and one seed")
    check_order(contenders)
    directory = output_directory(output) if output is not None and is_main_process() else None
    calendar = plan_calendar(config, warm_epochs)
    splits = load_splits(config)
    subset_size = subset_size_of(len(splits.train), config)  # type: ignore[arg-type]
    results = _blank(config, calendar, contenders, chosen)
    records: list[RunRecord] = []
    for seed in chosen:
        done: dict[str, RunRecord] = {}
        for method in contenders:
            if on_run is not None:
                on_run(method.name, seed, None)
            try:
                wanted = configure(
                    method, config, calendar, finished=done.get, subset_size=subset_size
                )
                record = run(
                    wanted, method=method.name, seed=seed, splits=splits, on_point=on_point
                )
            except Exception as error:
                logger.debug("%s with seed %d failed", method.name, seed, exc_info=True)
                record = _failed(method, seed, config, error)
            if record is None:
                continue
            if record.status == "ok":
                done[method.name] = record
            records.append(record)
            _update(results, records, config)
            if directory is not None:
                write_json(directory / RESULTS, results)
            if on_run is not None:
                on_run(method.name, seed, record)
    return results


def _blank(
    config: RunConfig, calendar: Calendar, methods: Sequence[Method], seeds: Sequence[int]
) -> dict[str, Any]:
    strategy = config.dss_args.strategy
    return {
        "schema": SCHEMA,
        "kind": "compare",
        "config": config.to_dict(),
        "calendar": asdict(calendar),
        "methods": [{**asdict(m), "label": m.label(strategy)} for m in methods],
        "seeds": list(seeds),
        **provenance(),
        "runs": [],
        "summary": [],
        "reading": "",
    }


def _failed(method: Method, seed: int, config: RunConfig, error: Exception) -> RunRecord:
    return RunRecord(
        method=method.name,
        seed=seed,
        config=config.to_dict(),
        status="failed",
        error=f"{type(error).__name__}: {error}",
    )


def _update(results: dict[str, Any], records: Sequence[RunRecord], config: RunConfig) -> None:
    rows = []
    for record in records:
        row = record.to_dict()
        row.pop("provenance")
        row["label"] = Method.parse(record.method).label(config.dss_args.strategy)
        rows.append(row)
    results["runs"] = rows
    results["summary"] = summarise(rows)
    results["reading"] = reading(results["summary"])
