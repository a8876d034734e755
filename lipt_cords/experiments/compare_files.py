"""What a comparison writes first, and what of an earlier one in the same directory it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lipt_cords.base.differences import first_difference
from lipt_cords.base.errors import already_made
from lipt_cords.base.files import read_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.registry import code_of
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.compare_plan import ComparisonPlan, RunKey
from lipt_cords.experiments.methods import Method
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.results import PLACES, RESULTS, read_results
from lipt_cords.experiments.run import SCHEMA, contents_of_splits
from lipt_cords.training.ledger import CurvePoint, Ledger

TERMS = ("warm_epochs", "subset_passes", "equal", "budget")
"""Of a comparison, beside its configuration, methods, seeds and fractions."""


def blank_results(
    config: RunConfig,
    plan: ComparisonPlan,
    methods: Sequence[Method],
    terms: Mapping[str, Any],
    splits: DataSplits | None = None,
) -> dict[str, Any]:
    """The results of a comparison before its first run; with ``splits`` they name their contents,
    and the modules that the configuration imports theirs."""
    strategy = config.dss_args.strategy
    blank: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "compare",
        "config": config.to_dict(),
        "terms": {name: terms[name] for name in TERMS},
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
    if splits is not None:
        blank["data"] = contents_of_splits(splits)
        if config.imports:
            blank["code"] = code_of(config.imports)
    return blank


def kept_records(
    directory: Path, blank: dict[str, Any], plan: ComparisonPlan, resume: bool
) -> dict[RunKey, RunRecord]:
    """Records of an earlier comparison in a directory that this one continues.

    Raises:
        ValueError: there is one and ``resume`` is not set, or it is of other terms.
    """
    path = directory / RESULTS
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
