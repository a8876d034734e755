"""Rows of a comparison: accuracy with its spread, costs as means, and how numbers are written."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
COSTS = (
    "warmup_critical_passes", "warmup_passes", "warmup_seconds", "warmup_critical_seconds",
    "warmup_bytes", "gradient_seconds", "selection_seconds", "training_seconds",
    "evaluation_seconds", "passes", "critical_passes", "seconds", "critical_seconds",
)  # fmt: skip


SHOWN_DIGIT = 5e-4
"""Half of the last digit in which accuracies are shown: what is closer looks equal."""


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
            row.update(
                {c: statistics.fmean(run["costs"].get(c, 0.0) for run in good) for c in COSTS}
            )
            row["peak_memory"] = max(
                (run.get("peak_memory_bytes") or {}).get("process", 0) for run in good
            )
        rows.append(row)
    return rows


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


def percent(fraction: float) -> str:
    """A share of the data as people say it, with a space that breaks no line.

    >>> percent(0.1), percent(0.005)
    ('10\\xa0%', '0.5\\xa0%')
    """
    return f"{100 * fraction:.4g}\N{NO-BREAK SPACE}%"


def pooled(one: Row, other: Row) -> float:
    """The root of the two variances' mean, each weighted by its degrees of freedom."""
    free = [row["runs"] - 1 for row in (one, other)]
    squares = sum(n * row["deviation"] ** 2 for n, row in zip(free, (one, other), strict=True))
    return float((squares / sum(free)) ** 0.5)


def clear(one: Row, other: Row) -> int:
    """1 or -1 where one method is clearly above or below another, 0 where it is open."""
    if one["deviation"] is None or other["deviation"] is None:
        return 0
    difference = one["accuracy"] - other["accuracy"]
    if abs(difference) <= pooled(one, other):
        return 0
    return 1 if difference > 0 else -1


def surely(one: Row, other: Row, tries: int = 1) -> int:
    """1 or -1 where one method is above or below another beyond chance, 0 where it is open.

    Welch's t-test at 5 %, two-sided, over seeds; Bonferroni's correction for the best of several.
    Stricter than :func:`clear`, whose one deviation a few equal methods often exceed by luck.

    Args:
        one: a row.
        other: another.
        tries: from how many methods ``one`` was picked as the best.
    """
    difference = one["accuracy"] - other["accuracy"]
    if min(one["runs"], other["runs"]) < 2 or abs(difference) < SHOWN_DIGIT:
        return 0
    if one["deviation"] == other["deviation"] == 0:
        return 1 if difference > 0 else -1
    from scipy.stats import ttest_ind_from_stats

    chance = ttest_ind_from_stats(
        one["accuracy"], one["deviation"], one["runs"],
        other["accuracy"], other["deviation"], other["runs"], equal_var=False,
    ).pvalue  # fmt: skip
    if not chance < 0.05 / tries:
        return 0
    return 1 if difference > 0 else -1


def gap(one: Row, other: Row, name: str | None = None) -> str:
    """How far one method is above or below another, measured in their spread."""
    difference = 100 * (one["accuracy"] - other["accuracy"])
    if one["deviation"] is None or other["deviation"] is None:
        spread = "one seed, no spread to judge it by"
    else:
        inside = "more than" if clear(one, other) else "within"
        spread = f"{inside} one pooled deviation of {100 * pooled(one, other):.1f}"
    side = "above" if difference >= 0 else "below"
    return f"{abs(difference):.1f} points {side} {name or other['label']} ({spread})"


def times(ratio: float) -> str:
    """A ratio of costs in words.

    >>> times(2.0), times(0.5)
    ('2.0 times fewer', '2.0 times more')
    """
    if ratio <= 0:
        return "not counted"
    return f"{ratio:.1f} times fewer" if ratio >= 1 else f"{1 / ratio:.1f} times more"
