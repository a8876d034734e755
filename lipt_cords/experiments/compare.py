"""Methods side by side: fraction by fraction, seed by seed, every cost counted.

Random and RS2 stand beside everything, and so does one worker that trains as long as LiPT's
critical path. A run that fails is listed with its error and never averaged away. Results are
written whole after every run, and an interrupted comparison can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lipt_cords.base.differences import first_difference
from lipt_cords.base.errors import already_made
from lipt_cords.base.files import read_json, write_json
from lipt_cords.base.ownership import is_main_process, owns_output
from lipt_cords.base.provenance import machine_name, provenance
from lipt_cords.base.registry import code_of
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.choose import chooses_untrained
from lipt_cords.experiments.compare_plan import ComparisonPlan, PlannedRun, plan_comparison
from lipt_cords.experiments.compare_runs import OnWait, make_runs
from lipt_cords.experiments.contest import Equal
from lipt_cords.experiments.methods import (
    DEFAULT_METHODS,
    UNTRAINED_METHODS,
    Method,
    parse_methods,
)
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.results import PLACES, RESULTS, read_results
from lipt_cords.experiments.report.summary import summarise
from lipt_cords.experiments.report.words import verdict
from lipt_cords.experiments.run import (
    SCHEMA,
    contents_of_splits,
    load_splits,
)
from lipt_cords.training.ledger import CurvePoint, Ledger
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
    results = _blank(config, plan, contenders, shared) | {"command": command}
    if directory is not None:
        results["data"] = contents_of_splits(splits)
        if config.imports:
            results["code"] = code_of(config.imports)
    records: dict[tuple[str, float, int], RunRecord] = {}
    if directory is not None:
        records = _kept(directory / RESULTS, results, plan, resume)
    _update(results, plan, records, config)
    missing = {one.key for one in plan.runs} - records.keys()
    units = [[one for one in unit if one.key in missing] for unit in plan.units()]

    def started(planned: PlannedRun) -> None:
        if on_run is not None:
            on_run(*planned.key, None)

    made = make_runs(
        [unit for unit in units if unit],
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


def _blank(
    config: RunConfig, plan: ComparisonPlan, methods: Sequence[Method], shared: dict[str, Any]
) -> dict[str, Any]:
    strategy = config.dss_args.strategy
    return {
        "schema": SCHEMA,
        "kind": "compare",
        "config": config.to_dict(),
        "terms": shared,
        "methods": [{**asdict(m), "label": m.label(strategy)} for m in methods],
        "seeds": list(dict.fromkeys(one.seed for one in plan.runs)),
        "fractions": list(dict.fromkeys(one.fraction for one in plan.runs)),
        "notes": plan.notes,
        "planned": {"runs": len(plan.runs), "passes": plan.passes},
        **provenance(),
        "runs": [],
        "summary": [],
        "verdict": "",
        "details": [],
    }


def _kept(
    path: Path, blank: dict[str, Any], plan: ComparisonPlan, resume: bool
) -> dict[tuple[str, float, int], RunRecord]:
    """Records of an earlier comparison that this one continues.

    Raises:
        ValueError: there is one and ``resume`` is not set, or it is of other terms.
    """
    if not path.exists():
        return {}
    if not resume:
        raise already_made(path)
    read_results(path)  # whole, or refused
    before = read_json(path)
    same = ("kind", "terms", "config", "data", "code", "python", "versions")
    asked, stored = ({part: one.get(part) for part in same} for one in (blank, before))
    changed = first_difference(asked, stored, ignore=PLACES)
    if changed is not None:
        raise ValueError(
            f"{path} is of another comparison: {changed}. Choose another --output, or run with "
            "what it was begun with"
        )
    wanted = {one.key for one in plan.runs}
    good = [row for row in before["runs"] if row["status"] == "ok"]
    found = {(row["method"], row.get("fraction"), row["seed"]): row for row in good}
    more = [key for key in found if key not in wanted]
    if more:
        raise ValueError(
            f"{path} holds {len(more)} runs that this comparison would not make, such as "
            f"{more[0]}: ask for their methods, fractions and seeds too, or choose another --output"
        )
    rates = {one.key: one.config.to_dict()["scheduler"] for one in plan.runs}
    try:
        for key, row in found.items():
            changed = first_difference(rates[key], row["config"]["scheduler"])
            if changed is not None:
                raise ValueError(
                    f"{path} holds runs of another learning rate ({changed}), made by an earlier "
                    "version: choose another --output"
                )
        return {key: _record(row) for key, row in found.items()}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} was written by another version ({type(error).__name__}: {error}): choose "
            "another --output"
        ) from None


def _record(row: dict[str, Any]) -> RunRecord:
    names = {one.name for one in fields(RunRecord)}
    costs = {one.name: row["costs"].get(one.name, 0) for one in fields(Ledger)}
    values = {name: value for name, value in row.items() if name in names}
    known = {one.name for one in fields(CurvePoint)}
    curve = [
        CurvePoint(**{name: value for name, value in point.items() if name in known})
        for point in row["curve"]
    ]
    made = {"revision": row.get("revision"), "made_on": row.get("made_on")}
    return RunRecord(**{**values, "costs": Ledger(**costs), "curve": curve, "provenance": made})


def _update(
    results: dict[str, Any],
    plan: ComparisonPlan,
    records: dict[tuple[str, float, int], RunRecord],
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
