"""Results read back: whole, of one comparison, and nothing taken on trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lipt_cords.files import read_json
from lipt_cords.report.summary import summarise
from lipt_cords.strict import readable_errors

RESULTS, WARM_START = "results.json", "warm_start.json"
PARTS = ("kind", "terms", "config", "python", "versions")
"""What comparisons must share to stand in one report."""


class _Point(BaseModel):
    """A point of a curve, as far as a report needs it."""

    model_config = ConfigDict(extra="allow")

    epoch: int
    phase: str
    passes: float
    critical_passes: float
    seconds: float
    critical_seconds: float
    test_accuracy: float | None


class _Run(BaseModel):
    """A run, as far as a report needs it."""

    model_config = ConfigDict(extra="allow")

    method: str
    seed: int
    status: str
    error: str | None = None
    label: str | None = None
    fraction: float | None = None
    test_accuracy: float | None = None
    costs: dict[str, float] = Field(default_factory=dict)
    curve: list[_Point] = Field(default_factory=list)


@dataclass
class Results:
    """The runs of one comparison, or a single run, or a warm start alone.

    Attributes:
        title: what was run, in a few words.
        runs: records as in ``results.json``, with ``label``; failed ones among them.
        config: what all runs share.
        facts: of the page's end: command, versions, machine, revisions.
        notes: what a reader must know before believing anything.
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

    @property
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
    if len(paths) == 1 and not (paths[0] / RESULTS).exists() and (paths[0] / WARM_START).exists():
        return _warm_start_alone(paths[0] / WARM_START)
    parts = [_read(path / RESULTS) for path in paths]
    first = parts[0]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        for name in PARTS:
            changed = difference(first.get(name), part.get(name), name)
            if changed is not None:
                raise ValueError(
                    f"{paths[0] / RESULTS} and {path / RESULTS} do not belong in one report: "
                    f"{changed}. Report each of them apart"
                )
    runs = [run for part in parts for run in _runs_of(part)]
    keys = [(run["method"], run.get("fraction"), run["seed"]) for run in runs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"the run {twice} is there more than once: give each directory once")
    config, facts = first.get("config") or {}, _facts(first, runs)
    return Results(_title(first), runs, config, facts, _notes(parts, runs))


def difference(before: Any, now: Any, where: str) -> str | None:
    """The first place in which two nested mappings differ, in words; None if they are equal.

    Where data lie is nothing that a comparison depends on.

    >>> difference({"a": {"b": 1}}, {"a": {"b": 2}}, "config")
    'config.a.b was 1 and is 2'
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now} - {"datadir", "download"}):
            found = difference(before.get(key), now.get(key), f"{where}.{key}")
            if found is not None:
                return found
        return None
    return None if before == now else f"{where} was {before!r} and is {now!r}"


def _read(path: Path) -> dict[str, Any]:
    payload = read_json(path)
    kind = payload.get("kind")
    if kind not in ("compare", "run"):
        raise ValueError(
            f"{path} holds no comparison and no run: give the --output directory of lipt-cords "
            "compare, train, demo or warmstart"
        )
    runs = payload.get("runs") if kind == "compare" else [payload]
    if not isinstance(runs, list):
        raise ValueError(f"{path} is no whole result: it has no list of runs")
    for number, run in enumerate(runs):
        try:
            checked = _Run.model_validate(run)
        except ValidationError as error:
            raise ValueError(
                f"{path} is no whole result: {readable_errors(f'run {number}', error)}"
            ) from None
        if checked.status == "ok" and not (checked.curve and checked.costs):
            raise ValueError(f"{path} is no whole result: run {number} has no curve or no costs")
        if checked.status == "ok" and checked.test_accuracy is None:
            raise ValueError(f"{path} is no whole result: run {number} has no test_accuracy")
    return payload


def _runs_of(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    runs = payload["runs"] if payload["kind"] == "compare" else [payload]
    return [{**run, "label": run.get("label") or run["method"]} for run in runs]


def _title(payload: Mapping[str, Any]) -> str:
    config = payload.get("config") or {}
    data = str((config.get("dataset") or {}).get("name", "unnamed data")).rpartition("/")[2]
    net = (config.get("model") or {}).get("architecture", "unnamed net")
    return f"{data}, {net}"


def _facts(payload: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    made = payload.get("provenance") or payload
    revisions = {run.get("revision") for run in runs} | {made.get("revision")}
    return {
        "command": payload.get("command"),
        "python": made.get("python"),
        "versions": made.get("versions") or {},
        "machine": made.get("machine") or {},
        "revisions": sorted(str(revision) for revision in revisions if revision),
    }


def _notes(parts: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    good = [run for run in runs if run["status"] == "ok"]
    failed = len(runs) - len(good)
    if failed:
        notes.append(f"{failed} of {len(runs)} runs failed; they stand in no mean.")
    planned = sum((part.get("planned") or {}).get("runs", 0) for part in parts)
    if planned > len(runs):
        notes.append(
            f"{planned - len(runs)} of {planned} planned runs are missing: the comparison was "
            "interrupted and can be resumed."
        )
    if good and len({run["seed"] for run in good}) == 1:
        notes.append("One seed: there are no bands, and no difference is a finding.")
    revisions = {run["revision"] for run in runs if run.get("revision")}
    if len(revisions) > 1:
        notes.append(
            f"The runs were made at {len(revisions)} revisions of the source: "
            f"{', '.join(sorted(revisions))}."
        )
    said = [note for part in parts for note in part.get("notes") or []]
    said += [note for run in good for note in run.get("notes") or []]
    return [*notes, *dict.fromkeys(said)]


def _warm_start_alone(path: Path) -> Results:
    saved = read_json(path)
    report = saved.get("report") if isinstance(saved, dict) else None
    if not isinstance(report, dict):
        raise ValueError(f"{path} holds no report of a warm start")
    facts = _facts(saved, [])
    config = saved.get("config") or {}
    return Results(
        "a warm start", [], {"warm_start": config}, facts, list(report.get("notes") or []), report
    )
