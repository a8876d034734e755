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
    "lipt-finetune": "all data, 8 workers of `lipt-finetune`, 25 merges",
    "all data": "all data, one worker",
}
"""What the page calls a row."""
IN_SEED_0 = {
    "lipt as it is": "The preset `lipt` as it is, one worker, seed 0",
    "one merge, new head": "One merge from a new head, seed 0",
    "all data, new head": "All data from a new head, seed 0",
}
AGAIN = "refitted_test_accuracy"


def pretrained() -> str:
    """Fine-tuning of a pretrained model by merges, against all data and against subsets."""
    results = load("pretrained")
    rows = []
    for name, shown in SHOWN.items():
        if runs := _runs(results, name):
            costs = [f"{runs[0][cost]:,}" for cost in ("critical_path_passes", "passes")]
            again = [run[AGAIN] for run in runs if AGAIN in run]
            rows.append([shown, *costs, spread(_accuracies(runs)), spread(again) if again else "-"])
    everything = _accuracies(_runs(results, "all data"))
    against = ", ".join(
        f"{name}: {signed([one - other for one, other in zip(mine, everything, strict=True)])}"
        for name in ("one merge", "four merges", "lipt-finetune")
        if (mine := _accuracies(_runs(results, name)))
    )
    alone = "".join(
        f" {shown}: {spread(_accuracies(runs))} %."
        for name, shown in IN_SEED_0.items()
        if (runs := _runs(results, name))
    )
    head = (
        "Fine-tuned on", "Critical path, passes", "in all", "Test accuracy, %",
        "Head fitted again, %",
    )  # fmt: skip
    told = f"\n{len(everything)} seeds. Points against all data, seed by seed: {against}.{alone}\n"
    return markdown(head, rows) + told + origin(results)


def _accuracies(runs: list[dict[str, Any]]) -> list[float]:
    return [run["test_accuracy"] for run in runs]


def _runs(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows of a method at its best rate, seed by seed; none if it was not run."""
    mine = [row for row in results["rows"] if row["method"] == name]
    rate = best(mine, name) if mine else None
    return sorted((row for row in mine if row["rate"] == rate), key=lambda row: row["seed"])


PRETRAINED = (pretrained,)
