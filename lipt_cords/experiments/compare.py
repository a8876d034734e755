"""Methods side by side: fraction by fraction, seed by seed, every cost counted.

Random and RS2 stand beside everything, and so does one worker that trains as long as LiPT's
critical path. A run that fails is listed with its error and never averaged away. Results are
written whole after every run, and an interrupted comparison can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lipt_cords.base.files import write_json
from lipt_cords.base.ownership import is_main_process, owns_output
from lipt_cords.base.provenance import machine_name
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.choose import chooses_untrained
from lipt_cords.experiments.compare_files import blank_results, kept_records
from lipt_cords.experiments.compare_plan import ComparisonPlan, PlannedRun, RunKey, plan_comparison
from lipt_cords.experiments.compare_runs import OnWait, make_runs
from lipt_cords.experiments.contest import Equal
from lipt_cords.experiments.methods import DEFAULT_METHODS, UNTRAINED_METHODS, parse_methods
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.results import RESULTS
from lipt_cords.experiments.report.summary import summarise
from lipt_cords.experiments.report.words import verdict
from lipt_cords.experiments.run import load_splits
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.warmstart.progress import each_line_once

OnRun = Callable[[str, float, int, RunRecord | None], None]
"""Called with method, fraction, seed, and None before a run or its record after it."""


def default_methods(config: RunConfig) -> tuple[str, ...]:
    """The methods of a comparison where none are given: warm-ups and their controls, or, for a
    strategy that needs no model, random subsets, RS2 and all data.

    >>> default_methods(RunConfig.parse({"dss_args": {"type": "Covering"}}))
    ('random', 'rs2', 'none+selector/static', 'full-data')
    """
    return UNTRAINED_METHODS if chooses_untrained(config) else DEFAULT_METHODS


@owns_output
@each_line_once()
def compare(
    config: RunConfig,
    *,
    methods: Sequence[str] | None = None,
    seeds: Iterable[int] = (0, 1, 2),
    fractions: Sequence[float] | None = None,
    warm_epochs: int | None = None,
    subset_passes: int | None = None,
    equal: Equal | None = None,
    budget: int | None = None,
    jobs: int = 1,
    output: str | Path | None = None,
    resume: bool = False,
    splits: DataSplits | None = None,
    command: str | None = None,
    on_run: OnRun | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
    on_wait: OnWait | None = None,
) -> dict[str, Any]:
    """Run every method at every fraction with every seed.

    Args:
        config: data, net, optimizer, strategy, and the LiPT warm start.
        methods: names of :class:`~lipt_cords.experiments.methods.Method`, such as ``lipt`` or
            ``lipt+random``; None takes :func:`default_methods`.
        seeds: one run of each method a seed.
        fractions: of the pool in a subset; None takes the configuration's.
        warm_epochs: full-data epochs that LiPT replaces; None takes what the file's kappa says,
            or 15.
        subset_passes: passes on subsets, in place of the configuration's epochs.
        equal: every method spends the same passes, warm-up counted: ``critical-path`` or
            ``total``. None: every method trains on subsets for the same epochs.
        budget: these passes; None: what the most expensive method spends.
        jobs: processes that make runs side by side; threads are divided among them, and a run
            on another number of threads rounds differently.
        output: directory for ``results.json``, rewritten whole after every run; None writes
            nothing.
        resume: keep the runs that ``output`` holds, and make the missing and failed ones.
        splits: the data, already loaded.
        command: the command line that asked for it, to be written down.
        on_run: called before and after every run.
        on_point: called with every point of every curve, with one job.
        on_wait: called every few seconds with the runs that go on and their last points, with
            several jobs.

    Returns:
        What ``results.json`` holds: ``runs``, ``summary`` (a row a method and fraction, each soup
        alone among them), ``verdict`` (the answer in a sentence) and ``details`` (what else the
        figures say, a paragraph a fraction).

    Raises:
        ValueError: an unknown method, a seed or fraction that repeats, a fraction that gives
            fewer samples than there are classes, data that are not there, or a directory with the
            results of another configuration. Whatever a single run raises is in its record.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, received {jobs}")
    methods = default_methods(config) if methods is None else methods
    contenders, chosen = parse_methods(methods), list(seeds)
    directory = Path(output).expanduser() if output is not None and is_main_process() else None
    splits = load_splits(config) if splits is None else splits
    shared: dict[str, Any] = {
        "warm_epochs": warm_epochs, "subset_passes": subset_passes, "equal": equal,
        "budget": budget,
    }  # fmt: skip
    plan = plan_comparison(config, splits, contenders, chosen, fractions, **shared)
    named = None if directory is None else splits
    results = blank_results(config, plan, contenders, shared, named) | {"command": command}
    records: dict[RunKey, RunRecord] = {}
    if directory is not None:
        records = kept_records(directory, results, plan, resume)
    _update(results, plan, records, config)

    def started(planned: PlannedRun) -> None:
        if on_run is not None:
            on_run(*planned.key, None)

    made = make_runs(
        plan.without(records).units(),
        splits,
        jobs=jobs,
        on_start=started,
        on_point=on_point,
        on_wait=on_wait,
    )
    for planned, record in made:
        records[planned.key] = record
        _update(results, plan, records, config)
        if directory is not None:
            write_json(directory / RESULTS, results, seal=True)
        if on_run is not None:
            on_run(*planned.key, record)
    if directory is not None:
        write_json(directory / RESULTS, results, seal=True)
    return results


def _update(
    results: dict[str, Any],
    plan: ComparisonPlan,
    records: dict[RunKey, RunRecord],
    config: RunConfig,
) -> None:
    rows = []
    for planned in plan.runs:
        record = records.get(planned.key)
        if record is None:
            continue
        row = record.to_dict()
        made = row.pop("provenance")
        row["revision"], row["made_on"] = made.get("revision"), made.get("made_on")
        if "machine" in made:
            row["made_on"] = machine_name(made["machine"])
        row["label"] = planned.method.label(config.dss_args.strategy)
        if row["subsets"] and planned.seed != min(results["seeds"]):
            row["subsets"]["shown"] = []  # the images of one seed are enough to look at
        row["fraction"] = planned.fraction
        row["planned"] = asdict(planned.expected)
        rows.append(row)
    results["runs"] = rows
    results["summary"] = summarise(rows)
    said = verdict(results["summary"])
    results["verdict"], results["details"] = said.text, list(said.details)
