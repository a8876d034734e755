"""The table of the presets in docs/warm-start.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.preset import ROWS
from benchmarks.tables.distributed import SETS, megabytes
from benchmarks.tables.parts import load, markdown, measured, origin, spread

SHOWN = {
    "default": "`lipt`, 16 workers",
    "int8": "`lipt`, 16 workers, `codec: int8`",
    "int4": "`lipt`, 16 workers, `codec: int4`",
    "half": "`lipt`, 16 workers, half the path",
    "half, int4": "`lipt`, 16 workers, half the path, `int4`",
    "one process": "`lipt`, one process",
    "one worker, equal critical path": "one worker of the critical path, Muon",
    "data-parallel, Muon": "data-parallel, 16 ranks, Muon",
    "one merge": "one merge, Muon",
    "one merge, pruned": "one merge, Muon, pruned",
    "lipt-once": "`lipt-once`, 16 workers",
}
"""What the page calls a row; others go by their names."""
MEASURES = ("pool_rank_correlation", "pool_class_cosine", "held_out_loss")


def preset() -> str:
    """Signal, passes and bytes of the presets and of what competes with them."""
    rows, origins = [], ""
    for name in SETS:
        found = load(f"preset-{name}")
        for row in [*SHOWN, *(one for one in ROWS if one not in SHOWN)]:
            runs = [one for one in found["rows"] if one["name"] == row]
            if runs:
                rows.append([f"{name}, {SHOWN.get(row, row)}", *_cells(runs, found)])
        origins += origin(found)
    head = (
        "Warm-up", "Seeds", "Critical path, passes", "Passes in all", "MB between 16 ranks",
        "Rank correlation of losses", "Cosine of class gradients", "Held-out loss",
        "Held-out accuracy, %",
    )  # fmt: skip
    return markdown(head, rows) + origins


def preset_reading() -> str:
    """The preset against what competes with it, in sentences."""
    return " ".join(_sentences(name) for name in SETS) + "\n"


def _sentences(name: str) -> str:
    found = load(f"preset-{name}")
    means = {}
    for row in ROWS:
        runs = [one for one in found["rows"] if one["name"] == row]
        if runs:
            keys = ("held_out_loss", "critical_path_passes", "passes", "exchanges")
            means[row] = {key: statistics.fmean(one[key] for one in runs) for key in keys}
    mine, each = means["default"], found["bytes_of_a_merge_of_16_ranks"]
    said = [f"**{name}**: 16 workers end at held-out loss {mine['held_out_loss']:.3f}."]
    for row in ("10 full epochs, SGD, annealed", "10 full epochs, SGD, constant"):
        if row in means:
            ratio = means[row]["critical_path_passes"] / mine["critical_path_passes"]
            reached = f"{means[row]['held_out_loss']:.3f}"
            said.append(f"{row}: {reached}, with {ratio:.1f} times the critical path.")
    if "data-parallel, Muon" in means:
        other = means["data-parallel, Muon"]
        ratios = [
            f"{other['exchanges'] * each['exact'] / (mine['exchanges'] * each[codec]):.0f} times "
            f"({codec})"
            for codec in each
        ]
        said.append(
            f"Data-parallel training with Muon: {other['held_out_loss']:.3f}, with "
            f"{', '.join(ratios)} the bytes of the merges."
        )
    losses = {(one["name"], one["seed"]): one["held_out_loss"] for one in found["rows"]}
    for codec in ("int8", "int4"):
        seeds = [seed for name, seed in losses if name == codec and ("default", seed) in losses]
        if seeds:  # the same ones on both sides
            changes = [losses[codec, seed] - losses["default", seed] for seed in seeds]
            said.append(
                f"{codec} ends {statistics.fmean(changes):+.3f} from exact, with "
                f"{each[codec] / each['exact']:.2f} of its bytes."
            )
    if "one process" in means:
        one = means["one process"]
        said.append(
            f"One process reaches {one['held_out_loss']:.3f} with {one['passes']:,.0f} passes in "
            f"all, where 16 workers make {mine['passes']:,.0f}."
        )
    return " ".join(said)


def _cells(runs: list[dict[str, Any]], found: dict[str, Any]) -> list[str]:
    one = runs[0]
    each = found["bytes_of_a_merge_of_16_ranks"]
    sent = one["exchanges"] * each[one.get("codec", "exact")]
    return [
        str(len(runs)),
        f"{one['critical_path_passes']:,}",
        f"{one['passes']:,}",
        megabytes(sent),
        *(measured([run[name] for run in runs]) for name in MEASURES),
        spread([run["accuracy"] for run in runs]),
    ]


PRESET = (preset, preset_reading)
