"""Results read back to people: one table, one honest paragraph, two plots."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lipt_cords.files import output_directory, read_json
from lipt_cords.plots import draw
from lipt_cords.signal_plot import draw_signal, has_rounds

Row = Mapping[str, Any]
COSTS = (
    "warmup_critical_passes", "warmup_passes", "warmup_seconds", "warmup_critical_seconds",
    "selection_seconds", "training_seconds", "passes", "critical_passes", "seconds",
)  # fmt: skip

FULL_WARMUP = re.compile(r"full(=\d+)?(\+selector)?")
"""Methods that do what LiPT does after a full-data warm-up."""


def summarise(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a method and fraction: accuracy as mean and sample deviation, costs as means.

    Args:
        runs: records as in ``results.json``; failed ones are counted and left out of the means.

    Returns:
        Rows in the order in which methods and fractions first ran.
    """
    rows = []
    for fraction, method in dict.fromkeys((run.get("fraction"), run["method"]) for run in runs):
        mine = [run for run in runs if (run.get("fraction"), run["method"]) == (fraction, method)]
        good = [run for run in mine if run["status"] == "ok"]
        row: dict[str, Any] = {
            "method": method,
            "fraction": fraction,
            "label": mine[0].get("label", method),
            "runs": len(good),
            "failed": len(mine) - len(good),
            "accuracy": None,
            "deviation": None,
        }
        if good:
            accuracies = [run["test_accuracy"] for run in good]
            row["accuracy"] = statistics.fmean(accuracies)
            row["deviation"] = statistics.stdev(accuracies) if len(good) > 1 else None
            row.update({c: statistics.fmean(run["costs"][c] for run in good) for c in COSTS})
        rows.append(row)
    return rows


def comparison_table(summary: Sequence[Row]) -> Table:
    """The table of a comparison, 80 columns wide."""
    table = Table(box=None, padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False)
    several = len({row.get("fraction") for row in summary}) > 1
    table.add_column("\nMethod", no_wrap=False, max_width=26)
    for heading in (
        "Test\naccuracy %", "Warm-up\ncritical", "passes\nin all", "Seconds:\nwarm-up",
        "\nselect", "\ntrain", "Passes\nin all",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    fraction = None
    for row in summary:
        if several and row["fraction"] != fraction:
            fraction = row["fraction"]
            table.add_row(Text(f"{fraction:.4g} of the data", style="italic"), *[""] * 7)
        failed = f" ({row['failed']} failed)" if row["failed"] else ""
        label = Text(row["label"] + failed, style="bold" if row["method"] == "lipt" else "")
        if row["accuracy"] is None:
            table.add_row(label, "-", *[""] * 6)
            continue
        table.add_row(
            label,
            accuracy_text(row),
            count(row["warmup_critical_passes"]),
            count(row["warmup_passes"]),
            seconds(row["warmup_seconds"]),
            seconds(row["selection_seconds"]),
            seconds(row["training_seconds"]),
            count(row["passes"]),
        )
    return table


def reading(summary: Sequence[Row]) -> str:
    """A paragraph a fraction that says what the table shows and what it does not.

    Args:
        summary: rows of :func:`summarise`.
    """
    fractions = list(dict.fromkeys(row.get("fraction") for row in summary))
    if len(fractions) < 2:
        return _paragraph(summary)
    parts = {f: [row for row in summary if row["fraction"] == f] for f in fractions}
    return "\n\n".join(f"At {f:.4g} of the data: {_paragraph(parts[f])}" for f in fractions)


def _paragraph(summary: Sequence[Row]) -> str:
    rows = {row["method"]: row for row in summary if row["accuracy"] is not None}
    sentences = []
    if rows:
        best = max(rows.values(), key=lambda row: row["accuracy"])
        sentences.append(f"Highest mean accuracy: {best['label']}, {accuracy_text(best)} %.")
    lipt = rows.get("lipt")
    if lipt is not None:
        sentences += _about_lipt(lipt, rows)
    failures = sum(row["failed"] for row in summary)
    if failures:
        sentences.append(f"{failures} run{'s' * (failures > 1)} failed and stand in no mean.")
    runs = min((row["runs"] for row in rows.values()), default=0)
    if runs == 1:
        sentences.append("1 seed a method: without a spread no difference is a finding.")
    elif runs:
        sentences.append(
            f"{runs} seeds a method: what lies within one pooled deviation is no finding."
        )
    return " ".join(sentences)


def _about_lipt(lipt: Row, rows: Mapping[str, Row]) -> list[str]:
    sentences = []
    full = next((rows[name] for name in rows if FULL_WARMUP.fullmatch(name)), None)
    if full is not None:
        critical = full["warmup_passes"] / max(1.0, lipt["warmup_critical_passes"])
        total = full["warmup_passes"] / max(1.0, lipt["warmup_passes"])
        sentences.append(
            f"{lipt['label']} is {_gap(lipt, full)}; its warm-up makes {_times(critical)} "
            f"sample-passes on the critical path, {_times(total)} over all workers."
        )
    if "one-worker" in rows:
        sentences.append(
            _verdict(
                lipt,
                rows["one-worker"],
                "one worker as long as that critical path",
                pays="merging workers pays here",
                otherwise="merging workers buys nothing that shows here",
            )
        )
    if "lipt+random" in rows:
        sentences.append(
            _verdict(
                lipt,
                rows["lipt+random"],
                "a random subset after the same warm start",
                pays="choosing the subset pays here",
                otherwise="the warm model, not the choice of the subset, earns the accuracy here",
            )
        )
    plain = [rows[name] for name in ("random", "rs2") if name in rows]
    if plain:
        rival = max(plain, key=lambda row: row["accuracy"])
        cheaper = lipt["passes"] / max(1.0, rival["passes"])
        sentences.append(
            f"It is {_gap(lipt, rival, rival['label'] + ' without a warm-up')}, whose passes are "
            f"{_times(cheaper)} in all."
        )
    equal = [row for name, row in rows.items() if "@" in name]
    if equal:
        rival = max(equal, key=lambda row: row["accuracy"])
        sentences.append(f"At equal cost it is {_gap(lipt, rival, rival['label'])}.")
    if sentences:
        sentences[0] = sentences[0].replace("It is", f"{lipt['label']} is", 1)
    return sentences


def write_report(directory: str | Path) -> list[Path]:
    """Draw the plots of a comparison next to its ``results.json``, or of a saved warm start.

    Returns:
        The files written; none for a warm start of one round.

    Raises:
        ValueError: no readable results of a comparison and no warm start in the directory.
        ImportError: matplotlib is not installed.
    """
    where = output_directory(directory)
    if (where / "warm_start.json").exists() and not (where / "results.json").exists():
        alone = read_json(where / "warm_start.json").get("report") or {}
        return draw_signal({"": alone}, where) if has_rounds(alone) else []
    results = read_json(where / "results.json")
    if results.get("kind") != "compare":
        raise ValueError(f"{where / 'results.json'} holds no comparison: give the directory of one")
    fractions = list(dict.fromkeys(run.get("fraction") for run in results["runs"]))
    drawn = []
    for fraction in fractions:
        some = [run for run in results["runs"] if run.get("fraction") == fraction]
        drawn += draw(some, where, suffix=f"_{fraction:g}" if len(fractions) > 1 else "")
    warm = {
        f"{run.get('label', run['method'])}, seed {run['seed']}": run["warm_start"]
        for run in results["runs"]
        if has_rounds(run.get("warm_start"))
    }
    return drawn + (draw_signal(warm, where) if warm else [])


def accuracy_text(row: Row) -> str:
    """Mean and deviation in percent.

    >>> accuracy_text({"accuracy": 0.981, "deviation": 0.004})
    '98.1 ± 0.4'
    """
    mean = f"{100 * row['accuracy']:.1f}"
    return mean if row["deviation"] is None else f"{mean} ± {100 * row['deviation']:.1f}"


def count(value: float) -> str:
    """A number of passes in at most seven characters.

    >>> count(19410), count(1234567), count(0)
    ('19,410', '1.23M', '0')
    """
    if value < 1e5:
        return f"{value:,.0f}"
    return f"{value / 1e3:.0f}k" if value < 1e6 else f"{value / 1e6:.3g}M"


def seconds(value: float) -> str:
    """Seconds, with a decimal below a hundred."""
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _verdict(one: Row, other: Row, name: str, *, pays: str, otherwise: str) -> str:
    """How a method stands against its control, and what that says."""
    return f"It is {_gap(one, other, name)}: {pays if _clear(one, other) > 0 else otherwise}."


def _gap(one: Row, other: Row, name: str | None = None) -> str:
    """How far one method is above or below another, measured in their spread."""
    difference = 100 * (one["accuracy"] - other["accuracy"])
    if one["deviation"] is None or other["deviation"] is None:
        spread = "one seed, no spread to judge it by"
    else:
        inside = "more than" if _clear(one, other) else "within"
        spread = f"{inside} one pooled deviation of {100 * _pooled(one, other):.1f}"
    side = "above" if difference >= 0 else "below"
    return f"{abs(difference):.1f} points {side} {name or other['label']} ({spread})"


def _clear(one: Row, other: Row) -> int:
    """1 or -1 where one method is clearly above or below another, 0 where nobody can say."""
    if one["deviation"] is None or other["deviation"] is None:
        return 0
    difference = one["accuracy"] - other["accuracy"]
    if abs(difference) <= _pooled(one, other):
        return 0
    return 1 if difference > 0 else -1


def _pooled(one: Row, other: Row) -> float:
    """The root of the two variances' mean, each weighted by its degrees of freedom."""
    free = [row["runs"] - 1 for row in (one, other)]
    squares = sum(n * row["deviation"] ** 2 for n, row in zip(free, (one, other), strict=True))
    return float((squares / sum(free)) ** 0.5)


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times fewer" if ratio >= 1 else f"{1 / ratio:.1f} times more"
