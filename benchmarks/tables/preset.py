"""What the preset `lipt` costs and reaches, and what its codecs save."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.parts import load, markdown, measured, origin

SETS = ("fashion-mnist", "cifar10-jpeg")
SHOWN = {
    "default": "`lipt`, 16 workers",
    "one process": "`lipt`, one process",
    "data-parallel, Muon": "data-parallel training, 16 processes",
    "10 full epochs, SGD, annealed": "10 full epochs of SGD",
}
"""What a page calls a row."""
CODECS = {"exact": "default", "int8": "int8", "int4": "int4"}
"""The row of each codec."""


def preset() -> str:
    """Passes, bytes and held-out loss of the preset and of what competes with it."""
    found = {name: load(f"preset-{name}") for name in SETS}
    rows = []
    for row, shown in SHOWN.items():
        runs = {name: _runs(one, row) for name, one in found.items()}
        mine = runs[SETS[0]][0]
        if any(one["passes"] != mine["passes"] for each in runs.values() for one in each):
            raise ValueError(f"{row} has not the same passes on all data: give it a row for each")
        costs = [f"{mine['critical_path_passes']:,}", f"{mine['passes']:,}"]
        rows.append([shown, *costs, _megabytes(found[SETS[0]], mine), *_losses(runs)])
    head = (
        "Warm-up", "Critical path, passes", "Passes in all", "MB between 16 processes",
        *(f"Held-out loss, {name}" for name in SETS),
    )  # fmt: skip
    return markdown(head, rows) + origin(*found.values())


def codecs() -> str:
    """Bytes and held-out loss of the preset with each codec, on the seeds that all codecs have."""
    found = {name: load(f"preset-{name}") for name in SETS}
    rows = []
    for codec, row in CODECS.items():
        runs = {
            name: [one for one in _runs(each, row) if one["seed"] in _shared(each)]
            for name, each in found.items()
        }
        megabytes = _megabytes(found[SETS[0]], runs[SETS[0]][0])
        rows.append([f"`{codec}`", megabytes, *_losses(runs)])
    head = (
        "Codec", "MB between 16 processes", *(f"Held-out loss, {name}" for name in SETS)
    )  # fmt: skip
    return markdown(head, rows) + origin(*found.values())


def _runs(found: dict[str, Any], row: str) -> list[dict[str, Any]]:
    return [one for one in found["rows"] if one["name"] == row]


def _shared(found: dict[str, Any]) -> set[int]:
    """Seeds with which every codec was run."""
    return set.intersection(
        *({one["seed"] for one in _runs(found, row)} for row in CODECS.values())
    )


def _megabytes(found: dict[str, Any], run: dict[str, Any]) -> str:
    """Bytes of all merges of 16 processes."""
    each = found["bytes_of_a_merge_of_16_ranks"][run.get("codec", "exact")]
    return f"{run['exchanges'] * each / 1e6:,.0f}"


def _losses(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [measured([run["held_out_loss"] for run in each]) for each in runs.values()]


PRESET = (preset, codecs)
