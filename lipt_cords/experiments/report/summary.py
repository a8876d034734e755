"""Rows of a comparison: accuracy with its spread, costs as means, and how numbers are written."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
COSTS = (
    "warmup_critical_passes", "warmup_passes", "warmup_seconds", "warmup_critical_seconds",
    "warmup_bytes", "gradient_seconds", "selection_seconds", "training_seconds",
    "evaluation_seconds", "passes", "critical_passes", "seconds", "critical_seconds",
)  # fmt: skip


SOUP_LABELS = {
    "soup of lipt": "LiPT's soup alone", "soup of lipt-rounds": "soup of LiPT in rounds alone",
    "soup of lipt-once": "soup of LiPT, one merge, alone",
}  # fmt: skip
_FROM_SOUP = re.compile(r"(lipt(?:-rounds|-once)?)(?=[+/@]|$)")
SHOWN_DIGIT = 5e-4
"""Half of the last digit in which accuracies are shown: what is closer looks equal."""


def summarise(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a method and fraction: accuracy as mean and sample deviation, costs as means.

    Every soup has a row of its own behind those of its fraction: what a LiPT warm start reaches
    without any training on a subset, which the first point of each of its runs has measured.

    Args:
        runs: records as in ``results.json``; failed ones are counted and left out of the means.

    Returns:
        Rows in the order in which fractions and methods first ran.
    """
    rows = []
    everything = [*runs, *_soups(runs)]
    for fraction in dict.fromkeys(run.get("fraction") for run in runs):
        here = [run for run in everything if run.get("fraction") == fraction]
        for method in dict.fromkeys(run["method"] for run in here):
            rows.append(_row(fraction, method, [run for run in here if run["method"] == method]))
    return rows


def _row(fraction: float | None, method: str, mine: Sequence[Row]) -> dict[str, Any]:
    good = [run for run in mine if run["status"] == "ok"]
    row: dict[str, Any] = {
        "method": method,
        "fraction": fraction,
        "label": mine[0].get("label", method),
        "soup": mine[0].get("soup") or soup_of(method),
        "runs": len(good),
        "failed": len(mine) - len(good),
        "accuracy": None,
        "deviation": None,
    }
    if good:
        accuracies = [run["test_accuracy"] for run in good]
        row["accuracy"] = statistics.fmean(accuracies)
        row["deviation"] = statistics.stdev(accuracies) if len(good) > 1 else None
        row.update({c: statistics.fmean(run["costs"].get(c, 0.0) for run in good) for c in COSTS})
        row["peak_memory"] = max(
            (run.get("peak_memory_bytes") or {}).get("process", 0) for run in good
        )
    return row


def soup_of(method: str) -> str | None:
    """The soup from which a method trains on subsets; None if it trains from none.

    >>> soup_of("lipt+random"), soup_of("lipt-once"), soup_of("lipt/scratch"), soup_of("rs2")
    ('soup of lipt', 'soup of lipt-once', None, None)
    """
    found = _FROM_SOUP.match(method)
    return None if found is None or "/scratch" in method else f"soup of {found.group(1)}"


def is_soup(row: Row) -> bool:
    """Whether a row is a soup alone."""
    return str(row["method"]).startswith("soup of ")


def start_accuracy(run: Row) -> float | None:
    """The test accuracy of a run before its first step on a subset, if it was measured."""
    first = run["curve"][0] if run.get("curve") else {}
    accuracy = first.get("test_accuracy") if first.get("phase") == "start" else None
    return None if accuracy is None else float(accuracy)


def _soups(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """Each soup of each seed, as a run that ends where training on a subset would begin."""
    found: dict[Any, dict[str, Any]] = {}
    for run in runs:
        soup = soup_of(run["method"])
        if soup is None or run["status"] != "ok" or start_accuracy(run) is None:
            continue
        spent = {name: run["costs"].get(name, 0.0) for name in COSTS if name.startswith("warmup_")}
        sums = {
            name: spent[f"warmup_{name}"]
            for name in ("passes", "critical_passes", "seconds", "critical_seconds")
        }
        found.setdefault(
            (run.get("fraction"), soup, run["seed"]),
            {
                "method": soup, "soup": soup, "fraction": run.get("fraction"), "seed": run["seed"],
                "label": SOUP_LABELS[soup], "status": "ok", "test_accuracy": start_accuracy(run),
                "costs": {**spent, **sums},
            },
        )  # fmt: skip
    return list(found.values())


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


def surely(one: Row, other: Row, tries: int = 1) -> int:
    """1 or -1 where one method is above or below another beyond chance, 0 where it is open.

    Welch's t-test at 5 %, two-sided, over seeds; Bonferroni's correction for the best of several.

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


def times(ratio: float) -> str:
    """A ratio of costs in words.

    >>> times(2.0), times(0.5)
    ('2.0 times fewer', '2.0 times more')
    """
    if ratio <= 0:
        return "not counted"
    return f"{ratio:.1f} times fewer" if ratio >= 1 else f"{1 / ratio:.1f} times more"
