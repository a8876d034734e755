"""The table of benchmarks/pretrained.py."""

from __future__ import annotations

from typing import Any

from benchmarks.pretrained import best
from benchmarks.tables.fixed import signed
from benchmarks.tables.parts import load, markdown, origin, spread

SHOWN = {
    "frozen": "nothing: the head alone",
    "one worker": "all data, an eighth of the passes",
    "random eighth": "a random eighth",
    "chosen eighth": "an eighth by `choose_subset`",
    "one merge": "all data, 8 workers, one merge",
    "four merges": "all data, 8 workers, four merges",
    "all data": "all data, one worker",
}
"""What the page calls a row."""
IN_SEED_0 = {
    "one merge, new head": "one merge from a new head",
    "all data, new head": "all data from a new head",
    "lipt as it is": "the preset `lipt` as it is",
}


def pretrained() -> str:
    """Fine-tuning of a pretrained model by one merge, against all data and against subsets."""
    results = load("pretrained")
    rows = []
    for name, shown in SHOWN.items():
        runs = _runs(results, name)
        costs = [f"{runs[0][cost]:,}" for cost in ("critical_path_passes", "passes")]
        rows.append([shown, *costs, spread([run["test_accuracy"] for run in runs])])
    merge, everything = (
        [run["test_accuracy"] for run in _runs(results, name)] for name in ("one merge", "all data")
    )
    differences = signed([one - other for one, other in zip(merge, everything, strict=True)])
    alone = ", ".join(
        f"{shown}: {spread([run['test_accuracy'] for run in _runs(results, name)])} %"
        for name, shown in IN_SEED_0.items()
    )
    head = ("Fine-tuned on", "Critical path, passes", "in all", "Test accuracy, %")
    told = (
        f"\n{len(merge)} seeds. One merge against all data, seed by seed: {differences} points. "
        f"In seed 0, {alone}.\n"
    )
    return markdown(head, rows) + told + origin(results)


def _runs(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows of a method at its rate, seed by seed; where no rate was tried, its own."""
    mine = [row for row in results["rows"] if row["method"] == name]
    rate = best(results["rows"], name)
    return sorted((row for row in mine if row["rate"] == rate), key=lambda row: row["seed"])


PRETRAINED = (pretrained,)
