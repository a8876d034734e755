"""Results read back: complete, of one comparison, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lipt_cords.base.differences import first_difference
from lipt_cords.base.files import read_json
from lipt_cords.base.options import readable_errors
from lipt_cords.base.printable import printable
from lipt_cords.experiments.report.schema import Payload, SavedWarmStart
from lipt_cords.experiments.report.summary import start_accuracy, summarise
from lipt_cords.experiments.report.words import soup_note, soup_notes
from lipt_cords.training.weights import RECORD as WARM_START

RESULTS = "results.json"
"""Name of the file that a comparison or a run leaves."""
PLACES = ("datadir", "download")
"""Keys of a configuration that say where data are: a comparison does not depend on them."""
P = TypeVar("P", bound=BaseModel)


@dataclass
class Results:
    """The runs of one comparison, or a single run, or a warm start alone.

    Attributes:
        title: what was run, in a few words.
        runs: records as in ``results.json``, with ``label``; failed ones among them.
        config: what all runs share.
        facts: of the page's end: command, versions, machine, revisions.
        notes: what a reader must know.
        warm_start: the report of a warm start that was fitted alone.
    """

    title: str
    runs: list[dict[str, Any]]
    config: dict[str, Any]
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warm_start: dict[str, Any] | None = None

    @property
    def good(self) -> list[dict[str, Any]]:
        """Runs that ended well."""
        return [run for run in self.runs if run["status"] == "ok"]

    @property
    def fractions(self) -> list[float | None]:
        """Fractions of the pool, smallest first."""
        found = {run.get("fraction") for run in self.runs}
        return sorted(found, key=lambda f: -1.0 if f is None else f)

    @property
    def methods(self) -> dict[str, str]:
        """Labels by method, in the order in which they first ran."""
        return {run["method"]: run["label"] for run in self.runs}

    @property
    def seeds(self) -> list[int]:
        """Seeds, in order."""
        return sorted({run["seed"] for run in self.runs})

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """A row a method and fraction; the highest fraction last."""
        rows = summarise(self.runs)
        return sorted(rows, key=lambda row: -1.0 if row["fraction"] is None else row["fraction"])

    def runs_of(self, method: str, fraction: float | None) -> list[dict[str, Any]]:
        """Runs of a method at a fraction that ended well, seed by seed."""
        found = [
            run for run in self.good if run["method"] == method and run.get("fraction") == fraction
        ]
        return sorted(found, key=lambda run: run["seed"])


def load_results(directories: Sequence[str | Path]) -> Results:
    """Read the results of one or more directories as one comparison.

    Args:
        directories: each holds the ``results.json`` of a comparison or a run; a single one may
            hold the ``warm_start.json`` of a warm start instead. Several must be of one
            comparison: equal configurations, terms and versions.

    Raises:
        ValueError: nothing to read, a file that is truncated or of another program, results that
            do not belong together (the first difference is named), or a run that is there twice.
    """
    paths = [Path(directory) for directory in directories]
    if not paths:
        raise ValueError("expected at least one directory with results, received none")
    for path in paths:
        if not (path / RESULTS).exists() and not (path / WARM_START).exists():
            raise ValueError(
                f"there are no results in {path}: run lipt-cords compare, train or warmstart with "
                f"--output {path} first"
            )
    if len(paths) == 1 and not (paths[0] / RESULTS).exists() and (paths[0] / WARM_START).exists():
        return _warm_start_alone(paths[0] / WARM_START)
    parts = [read_results(path / RESULTS) for path in paths]
    identities = [_identity(part) for part in parts]
    for path, identity in zip(paths[1:], identities[1:], strict=True):
        changed = first_difference(identities[0], identity, ignore=PLACES)
        if changed is not None:
            raise ValueError(
                f"{path / RESULTS} does not belong in one report with {paths[0] / RESULTS}: "
                f"{changed}. Report each of them apart"
            )
    runs = [run for part in parts for run in _runs_of(part)]
    keys = [(run["method"], run["fraction"], run["seed"]) for run in runs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"the run {twice} is there more than once: give each directory once")
    named = {run["fraction"] is None for run in runs}
    if len(named) > 1:
        raise ValueError(
            "some runs name the fraction of their subsets and others do not: they are not one "
            "comparison"
        )
    first = parts[0]
    facts, notes = _facts(first, runs), _notes(parts, runs)
    return Results(_title(first.config), runs, first.config, facts, notes)


def read_results(path: Path) -> Payload:
    """A results file, checked.

    Raises:
        ValueError: it is missing, truncated, of another program, or not complete; the first places
            that are wrong are named.
    """
    raw = read_json(path)
    kind = raw.get("kind")
    if kind not in ("compare", "run"):
        raise ValueError(
            f"{path} holds no comparison and no run: give the --output directory of lipt-cords "
            "compare, train, demo or warmstart"
        )
    if kind == "run":
        raw = {**raw, "runs": [raw], "notes": []}
    return _checked(Payload, raw, path)


def _checked(schema: type[P], raw: Any, path: Path) -> P:
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        lines = readable_errors("", error).splitlines()
        shown = "; ".join(line.removeprefix(".")[:300] for line in lines[:3])
        raise ValueError(f"{path} is not a complete result: {shown}") from None


def _identity(payload: Payload) -> dict[str, Any]:
    """What comparisons must share to stand in one report."""
    made = payload.made
    return {
        "kind": payload.kind, "terms": payload.terms, "config": payload.config,
        "python": made.python, "versions": made.versions,
    }  # fmt: skip


def _runs_of(payload: Payload) -> list[dict[str, Any]]:
    made = payload.made
    rows = []
    for run in payload.runs:
        row = run.model_dump()
        row["label"] = run.label or run.method
        row["revision"] = run.revision or made.revision
        row["made_on"] = run.made_on or str(made.machine)
        rows.append(row)
    return rows


def _title(config: Mapping[str, Any]) -> str:
    """Data and net, as far as they are in the configuration."""
    data, net = config.get("dataset"), config.get("model")
    name = str(data.get("name", "")) if isinstance(data, dict) else ""
    architecture = str(net.get("architecture", "")) if isinstance(net, dict) else ""
    shown = (name.rpartition("/")[2] or "unnamed data", architecture or "unnamed net")
    return printable(", ".join(shown))


def _facts(first: Payload, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    made = first.made
    return {
        "command": first.command,
        "python": made.python,
        "versions": made.versions,
        "machine": made.machine.model_dump() if made.machine.processor else {},
        "revisions": sorted({run["revision"] for run in runs if run["revision"]}),
    }


def _notes(parts: Sequence[Payload], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    good = [run for run in runs if run["status"] == "ok"]
    failed = len(runs) - len(good)
    if failed:
        notes.append(f"{failed} of {len(runs)} runs failed; they are in no mean.")
    planned = sum(part.planned.runs for part in parts if part.planned is not None)
    if planned > len(runs):
        notes.append(
            f"{planned - len(runs)} of {planned} planned runs are missing: the comparison was "
            "interrupted and can be resumed."
        )
    if good and len({run["seed"] for run in good}) == 1:
        notes.append("One seed: there are no bands, and no difference is a finding.")
    revisions = sorted({run["revision"] for run in good if run["revision"]})
    if len(revisions) > 1:
        notes.append(
            f"The runs were made at {len(revisions)} revisions of the source: "
            f"{', '.join(revisions)}."
        )
    machines = sorted({run["made_on"] for run in good})
    if len(machines) > 1:
        notes.append(
            f"The runs were made on {len(machines)} kinds of machine ({'; '.join(machines)}): "
            "their seconds do not compare."
        )
    notes += soup_notes(summarise(runs))
    if parts[0].kind == "run":
        notes += notes_of_run(parts[0].config, runs[0])
    said = [note for part in parts for note in part.notes]
    said += [note for run in good for note in run["notes"]]
    return [*notes, *dict.fromkeys(said)]


def notes_of_run(config: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Whether the warm start of a single run was better before the training on the subset.

    Args:
        config: of the run.
        run: its record as in ``results.json``.
    """
    dss = config.get("dss_args")
    warm = dss.get("warm_start") if isinstance(dss, dict) else None
    begins_with_it = isinstance(warm, dict) and warm.get("start_from") != "initial"
    if not begins_with_it or run["status"] != "ok":
        return []
    return soup_note(run["method"], start_accuracy(run), run["test_accuracy"])


def _warm_start_alone(path: Path) -> Results:
    saved = _checked(SavedWarmStart, read_json(path), path)
    report = saved.report
    nothing: dict[str, Any] = {
        "command": None, "python": None, "versions": {}, "machine": {}, "revisions": [],
    }  # fmt: skip
    return Results(
        "a warm start", [], {"warm_start": saved.config}, nothing, list(report.notes),
        report.model_dump(),
    )  # fmt: skip
