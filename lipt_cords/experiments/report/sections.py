"""The parts of the page in the order of a person's questions: is it good, at what cost, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lipt_cords.experiments.report.bars import time_figures
from lipt_cords.experiments.report.cheaper import stages_text, ticket_figures, ticket_text
from lipt_cords.experiments.report.curves import COSTS, Figure, cost_figures, fraction_figure
from lipt_cords.experiments.report.results import Results
from lipt_cords.experiments.report.subsets import (
    balance_figure,
    has_rounds,
    overlap_figure,
    signal_figures,
)
from lipt_cords.experiments.report.summary import Row, accuracy_text, count, percent, seconds
from lipt_cords.experiments.report.words import Verdict

GALLERIES = 3
"""Methods whose samples are shown."""


Cell = tuple[str, float | str]
"""As it is shown, and what it is sorted by."""


@dataclass(frozen=True)
class Table:
    """Cells as they are shown, with the numbers that they are sorted by."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: its anchor.
        title: its heading.
        text: paragraphs before its figures.
        figures: groups of figures, each under a heading, which may be empty.
        legend: ``methods``, ``phases`` or nothing.
        table: before the figures.
        galleries: methods with the samples that they chose.
        details: paragraphs that are folded away.
        more: a table that is folded away.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[tuple[str, Sequence[Figure]]] = ()
    legend: str = ""
    table: Table | None = None
    galleries: Sequence[Mapping[str, Any]] = ()
    details: Sequence[str] = ()
    more: Table | None = None


def sections_of(results: Results, said: Verdict) -> Iterator[Section]:
    """The parts of a report in reading order; none if no run ended well."""
    if not results.good:
        return
    yield Section(
        "accuracy", "Accuracy and cost", table=headline_table(results),
        text=[
            "Costs are in passes: one sample forward and backward. Waiting: the passes that follow "
            "one another (workers side by side count once). Computing: the passes of all workers "
            "together. Seconds: as it ran on this machine. Warm-up, trials and selection are "
            "counted; evaluation is not.",
            "Accuracy: on test samples, the mean over seeds ± the sample deviation. Proven: by "
            "Welch's t-test over seeds, at 5\N{NO-BREAK SPACE}%.",
        ],
        details=said.details, more=parts_table(results),
    )  # fmt: skip
    by_fraction = fraction_figure(results)
    if by_fraction is not None:
        yield Section(
            "fractions", "Accuracy against the size of the subset", legend="methods",
            figures=[("", [by_fraction])],
        )  # fmt: skip
    yield Section(
        "costs", "Accuracy against what it costs", legend="methods",
        text=[
            "Lines are means over seeds, bands reach from the worst seed to the best. A hollow "
            "mark ends a warm-up, a filled one a run; a square is the end of a run that was "
            "allowed to spend as much as LiPT."
        ],
        figures=_cost_groups(results),
    )  # fmt: skip
    yield Section(
        "time", "Where the time goes", legend="phases", figures=[("", list(time_figures(results)))],
        text=["Beside each bar: all seconds, and the most memory that the process held."],
    )  # fmt: skip
    yield from _signal_section(results)
    yield from _cheaper_section(results)
    yield from _subset_sections(results, said.fraction)


def _cost_groups(results: Results) -> list[tuple[str, list[Figure]]]:
    """A group of figures a cost; with a single fraction they are few enough to be one group."""
    drawn = {cost: list(cost_figures(results, cost)) for cost in COSTS}
    if len(results.fractions) > 1:
        return [(COSTS[cost][1], figures) for cost, figures in drawn.items()]
    named = [
        replace(figure, title=COSTS[cost][1])
        for cost, figures in drawn.items()
        for figure in figures
    ]
    return [("", named)]


def headline_table(results: Results) -> Table:
    """A row a method and fraction, with three costs."""
    headings = ("Accuracy, %", "Waiting", "Computing", "Seconds")

    def cells(row: Row) -> list[Cell]:
        return [
            (accuracy_text(row), row["accuracy"]),
            *((count(row[name]), row[name]) for name in ("critical_passes", "passes")),
            (seconds(row["seconds"]), row["seconds"]),
        ]

    return _rows(results, headings, cells)


def parts_table(results: Results) -> Table:
    """The parts of the costs, a row a method and fraction."""
    headings = (
        "Seeds", "Warm-up, waiting", "Warm-up, computing", "Warm-up, s", "Selection, s",
        "Training, s",
    )  # fmt: skip

    def cells(row: Row) -> list[Cell]:
        passes = ("warmup_critical_passes", "warmup_passes")
        times = ("warmup_seconds", "selection_seconds", "training_seconds")
        return [
            (str(row["runs"]), row["runs"]),
            *((count(row[name]), row[name]) for name in passes),
            *((seconds(row[name]), row[name]) for name in times),
        ]

    return _rows(results, headings, cells)


def _rows(results: Results, headings: Sequence[str], cells: Callable[[Row], list[Cell]]) -> Table:
    """A table whose rows begin with the method, and the fraction where there are several."""
    several = len(results.fractions) > 1
    rows = []
    for row in results.summary:
        failed = f" ({row['failed']} failed)" if row["failed"] else ""
        first: list[Cell] = [(row["label"] + failed, row["label"])]
        if several:
            first.append((percent(row["fraction"] or 0), row["fraction"] or 0))
        empty: list[Cell] = [("-", -1.0)] * len(headings)
        rows.append([*first, *(empty if row["accuracy"] is None else cells(row))])
    return Table(["Method", *(["Share of data"] if several else []), *headings], rows)


def _signal_section(results: Results) -> Iterator[Section]:
    """The gradient signal of every warm start, once: fractions share them."""
    reports, seen = [], set()
    for place, method in enumerate(results.methods):
        for run in results.good:
            key = (method, run["seed"])
            if run["method"] == method and has_rounds(run.get("warm_start")) and key not in seen:
                seen.add(key)
                reports.append((place, run["warm_start"]))
    if reports:
        yield Section(
            "signal", "Gradient signal over the warm start", legend="methods",
            text=[
                "Workers are replicas, so their spread is the noise of the signal. One line a "
                "seed. A warm start of a single merge has one point, and no line."
            ],
            figures=[("", list(signal_figures(reports)))],
        )  # fmt: skip


def _cheaper_section(results: Results) -> Iterator[Section]:
    """Of the first warm start with subnetworks or a ticket: the others have the same options."""
    for method, label in results.methods.items():
        for run in results.good:
            report = run.get("warm_start") or {}
            if run["method"] == method and (report.get("stages") or report.get("ticket")):
                text = [*stages_text(report), *ticket_text(report)]
                yield Section(
                    "cheaper", f"What made workers cheaper: {label}, seed {run['seed']}",
                    text=text, figures=[("", list(ticket_figures(report)))],
                )  # fmt: skip
                return


def warm_start_section(results: Results) -> Section:
    """The figures of a warm start that was fitted alone."""
    report = results.warm_start or {}
    facts = [
        ("Held-out accuracy of the merged model", _share(report.get("merged_accuracy"))),
        ("of the mean worker", _share(report.get("mean_worker_accuracy"))),
        ("Workers in the soup", f"{sum(w['kept'] for w in report['workers'])} of "
         f"{len(report['workers'])}"),
        ("Sample-passes, critical path", count(report["critical_path_passes"])),
        ("Sample-passes in all", count(report["passes"])),
        ("FLOPs of training, critical path", f"{report['critical_path_flops']:.3g}"),
        ("FLOPs of training in all", f"{report['flops']:.3g}"),
        ("Seconds", seconds(report["seconds"]["total"])),
        ("Bytes exchanged", f"{report['bytes_communicated']:,}"),
    ]  # fmt: skip
    table = Table(("Warm start", ""), [[(name, name), (value, value)] for name, value in facts])
    figures = list(signal_figures([(0, report)])) if has_rounds(report) else []
    text = [] if figures else ["It was merged once, so there is no signal over rounds to draw."]
    groups = [("", figures), ("Early-Bird ticket", list(ticket_figures(report)))]
    return Section(
        "signal", "Gradient signal over the warm start",
        text=[*text, *stages_text(report), *ticket_text(report)], figures=groups, table=table,
    )  # fmt: skip


def _subset_sections(results: Results, fraction: float | None) -> Iterator[Section]:
    if fraction not in results.fractions:
        fraction = results.fractions[0]
    where = "" if fraction is None or len(results.fractions) < 2 else f", {percent(fraction)}"
    figures = [overlap_figure(results, fraction), balance_figure(results, fraction)]
    drawn = [one for one in figures if one is not None]
    if drawn:
        yield Section(
            "subsets", f"The subsets: how steady, how balanced{where}", figures=[("", drawn)],
        )  # fmt: skip
    galleries = _galleries(results, fraction)
    if galleries:
        yield Section("samples", f"Samples of the last subset{where}", galleries=galleries)


def _galleries(results: Results, fraction: float | None) -> list[dict[str, Any]]:
    """Samples of a few methods, those with weights of their own first."""
    found = []
    for method, label in results.methods.items():
        runs = [
            run
            for run in results.runs_of(method, fraction)
            if any(one["png"] for one in (run.get("subsets") or {}).get("shown", []))
        ]
        if runs:
            recorded = runs[0]["subsets"]
            shown = [one for one in recorded["shown"] if one["png"]]
            half = len(shown) // 2
            alike = recorded["weights_alike"]
            parts = [("All weights are equal; some of the subset", shown)]
            if not alike:
                parts = [("Highest weights", shown[:half]), ("Lowest weights", shown[half:])]
            found.append(
                {"label": label, "seed": runs[0]["seed"], "parts": parts, "alike": alike}
                | {"plain": method in ("random", "rs2")}
            )
    return sorted(found, key=lambda one: (one["alike"], one["plain"]))[:GALLERIES]


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"
