"""What the commands show on a terminal: progress while they run, results when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lipt_cords.base.printable import printable
from lipt_cords.cli.doctor import OK, Diagnosis, Registered
from lipt_cords.cli.lines import say
from lipt_cords.data.datasets import DataSplits
from lipt_cords.experiments.clean import LabelCheck, leave_out
from lipt_cords.experiments.compare_plan import ComparisonPlan, PlannedRun
from lipt_cords.experiments.methods import Method
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.page import write_report
from lipt_cords.experiments.report.results import notes_of_run
from lipt_cords.experiments.report.subsets import PANELS
from lipt_cords.experiments.report.summary import count, percent, seconds
from lipt_cords.experiments.report.terminal import comparison_table
from lipt_cords.experiments.report.words import soup_notes
from lipt_cords.experiments.select_once import SelectionRun
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.warmstart.progress import Pulse
from lipt_cords.warmstart.report import WarmStartReport

SUSPECTS_SHOWN = 8
NOT_MEASURED = "not measured"
MARKS = {"ok": "[green]ok[/]", "absent": "[yellow]absent[/]", "broken": "[red]broken[/]"}


class Display:
    """Progress of one command; a quiet console makes it silent.

    Args:
        console: where it goes.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._pulse = Pulse(lambda line: say(console, line))
        self._running = ""
        self._labels: dict[str, str] = {}
        self._told: list[str] = []

    def methods(self, contenders: Sequence[Method], strategy: str) -> None:
        """Call the methods of a comparison as its tables do, which fill in the strategy."""
        self._labels = {one.name: one.label(strategy) for one in contenders}

    def data(self, splits: DataSplits) -> None:
        """What became of the data, in one line."""
        say(self.console, str(splits))
        self._told = splits.left_out.notes()

    def notes(self, notes: Sequence[str]) -> None:
        """What a result notes, without what the line of the data has told."""
        for note in notes:
            if note not in self._told:
                say(self.console, f"note: {note}")

    def run(self, method: str, fraction: float, seed: int, record: RunRecord | None) -> None:
        """One line for every finished run of a comparison."""
        self._running = self._named(method, fraction, seed)
        if record is None:
            return
        self._pulse.rest()
        width = max(map(len, self._labels.values()), default=0)
        name = f"  seed {seed}  {percent(fraction):<5} {self._labels.get(method, method):<{width}} "
        if record.status != "ok":
            line = (record.error or "").splitlines()[0]
            say(self.console, name + f"failed: {line}", style="red")
        else:
            say(self.console, name + _reached(record))

    def strategy(self, name: str, record: RunRecord | None) -> None:
        """One line for every other strategy that the demo passes through."""
        if record is not None:
            say(self.console, f"  {name} after LiPT: {_reached(record)}")

    def point(self, point: CurvePoint) -> None:
        """A line every half minute while a run of a comparison trains."""
        self._pulse.beat(lambda: f"  {self._running}: {_place(point)}")

    def wait(self, running: Sequence[tuple[PlannedRun, CurvePoint | None]]) -> None:
        """A line every half minute while runs of a comparison train side by side."""

        def line() -> str:
            places = (
                self._named(*one.key) + ("" if point is None else f": {_place(point)}")
                for one, point in running
            )
            return f"  {'; '.join(places)}"

        if running:
            self._pulse.beat(line)

    def _named(self, method: str, fraction: float, seed: int) -> str:
        return f"seed {seed}, {percent(fraction)}, {self._labels.get(method, method)}"

    @contextmanager
    def curve(self, epochs: int) -> Iterator[Callable[[CurvePoint], None]]:
        """A bar over the epochs of one run."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as progress:
            task = progress.add_task("warm start", total=epochs)

            def on_point(point: CurvePoint) -> None:
                progress.update(task, completed=point.epoch, description=_place(point))
                if not self.console.is_terminal:
                    self._pulse.beat(lambda: f"  {_place(point)} of {epochs}")

            yield on_point

    def warm_start(self, report: WarmStartReport, output: Path | None) -> None:
        """What a warm start gave and what it cost."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in (
            ("merged model, held-out accuracy", _percent(report.merged_accuracy)),
            ("mean worker", _percent(report.mean_worker_accuracy)),
            ("workers in the soup", f"{sum(w.kept for w in report.workers)}/{len(report.workers)}"),
            ("sample-passes on the critical path", count(report.critical_path_passes)),
            ("sample-passes in all", count(report.passes)),
            ("seconds as it ran here", seconds(report.seconds["total"])),
            ("bytes communicated", f"{report.bytes_communicated:,}"),
        ):
            table.add_row(name, value)
        self.console.print(table)
        if len(report.rounds) > 1:
            self.console.print(_rounds_table(report))
        if report.stopped_early:
            self.console.print(f"stop_when ended it early, after {len(report.rounds)} rounds")
        for note in report.notes:
            say(self.console, f"note: {note}")
        if output is not None:
            say(self.console, f"saved in {output}")
            show_written(self.console, output)


def _rounds_table(report: WarmStartReport) -> Table:
    """What was measured after each round, 80 columns wide."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in (
        "\nRound", "Passes,\ncritical", "\nWorkers", "Rank corr.\nof halves",
        "Class\ncosine", "Merged\nloss", "Recent\nfall",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for one in report.rounds:
        if one.stability is None:
            continue
        values = (one.stability[name] for name, _ in PANELS)
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        table.add_row(str(one.round + 1), count(one.critical_path_passes), str(one.workers), *cells)
    return table


def show_plan(
    console: Console, plan: ComparisonPlan, pace: float, jobs: int, strategy: str
) -> None:
    """What a comparison will run and what it will take, before it begins."""
    if plan.kept:
        console.print(f"{plan.kept} of {plan.kept + len(plan.runs)} runs are made already.")
    if not plan.runs:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    several = len({one.fraction for one in plan.runs}) > 1
    trials = any(one.expected.selection for one in plan.runs)
    columns = (
        "Method",
        "as --methods",
        *(("Fraction",) if several else ()),
        "Runs",
        "Warm-up",
        "critical",
        *(("Trials",) if trials else ()),
        "Train",
    )
    for place, heading in enumerate(columns):
        # A name that is to be typed is shown whole.
        justify: JustifyMethod = "right" if place > 1 else "left"
        table.add_column(heading, justify=justify, no_wrap=place > 1, overflow="fold")
    kinds: dict[tuple[str, float], list[PlannedRun]] = {}
    for one in plan.runs:
        kinds.setdefault((one.method.name, one.fraction), []).append(one)
    for (name, fraction), runs in kinds.items():
        expected, label = runs[0].expected, runs[0].method.label(strategy)
        tried = (count(expected.selection),) if trials else ()
        warmup = count(expected.warmup), count(expected.warmup_critical)
        passes = (*warmup, *tried, count(expected.training))
        shown = (percent(fraction),) if several else ()
        table.add_row(_plain(label), _plain(name), *shown, str(len(runs)), *passes)
    console.print("Plan, in sample-passes a run:")
    console.print(table)
    for note in plan.notes:
        say(console, f"note: {note}")
    warm = any(one.warm_start is not None for one in plan.runs)
    shared = " with shared warm starts" if warm else ""
    minutes = plan.passes / max(1.0, pace) / jobs / 60
    time = f"{minutes:.0f} minutes" if minutes >= 2 else f"{2 + 60 * minutes:.0f} seconds"
    console.print(
        f"{len(plan.runs)} runs, {count(plan.passes)} passes{shared}, about {time} "
        f"at {pace:,.0f} passes a second in {'one process' if jobs == 1 else f'each of {jobs}'}, "
        "selection and evaluation apart.\n",
        highlight=False,
    )


def show_run(display: Display, record: RunRecord, output: Path | None) -> None:
    """The outcome of one run in a few lines."""
    console = display.console
    say(console, f"{record.method}: {_outcome(record)}")
    display.notes([*record.notes, *notes_of_run(record.config, record.to_dict())])
    if output is not None:
        say(console, f"results: {output / 'results.json'}")
        if record.subsets is not None:
            chosen = len(record.subsets["epochs"])
            same = all(overlap == 1 for overlap in record.subsets["overlaps"])  # or there is one
            which = "the only selection" if same else f"the last of {chosen} selections"
            say(console, f"{which}: {output / 'selected.csv'}")
    else:
        say(console, "nothing is saved: --output DIR keeps results, weights and the subset")


def show_selection(display: Display, made: SelectionRun, output: Path | None) -> None:
    """What selected, what it reached and cost, and whether the subset is suspect."""
    console, report, spent = display.console, made.report, made.seconds
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    memory = ", ".join(f"{b / 2**20:,.0f} MiB {name}" for name, b in made.peak_memory_bytes.items())
    for name, value in (
        ("selected", f"{report.budget:,} of {report.pool:,} by {report.strategy}"),
        ("model", made.weights_from),
        *((key.replace("_", " "), f"{value:.4g}") for key, value in made.objective.items()),
        ("classified correctly, subset", _percent(report.subset_accuracy)),
        ("classified correctly, pool", _percent(report.pool_accuracy)),
        ("seconds, gradients", f"{spent['gradients']:.2f}" if spent["gradients"] else NOT_MEASURED),
        ("seconds, selection", f"{spent['selection']:.2f}"),
        ("peak memory", memory),
    ):
        if value != NOT_MEASURED:
            table.add_row(name, value)
    console.print(table)
    if report.warning:
        say(console, f"warning: {report.warning}", style="yellow")
    display.notes(made.notes)
    if output is not None:
        for name in ("selection.json", "selection.npz", "selected.csv", "split.json"):
            say(console, f"  {output / name}")


def show_suspects(display: Display, found: LabelCheck, written: Sequence[Path]) -> None:
    """How many labels are probably wrong, the most suspect ones, and which classes are confused."""
    console, count = display.console, len(found.suspects)
    say(
        console,
        f"{count:,} of {len(found.samples):,} labels are suspect; predicted from all the others, "
        f"{found.agreement:.0%} of the labels agree",
    )
    display.notes(found.notes)
    if count:
        table = Table(box=None, padding=(0, 2, 0, 0))
        rows = " rows, from 0 on" if found.called == "row" else ""
        for name in (f"the most suspect{rows}", "label", "probably"):
            table.add_column(name, overflow="fold")
        for one in found.suspects[:SUSPECTS_SHOWN]:
            table.add_row(*map(printable, (one.sample, one.label, one.likely)))
        console.print(table)
        often = ", ".join(
            f"{label} for {likely} ({many:,})" for label, likely, many in found.pairs()[:3]
        )
        say(console, f"most often: {often}")
    for path in written:
        say(console, f"  {path}")
    if count and written:
        say(
            console,
            f"Look at the page, delete from {written[0].name} the lines whose label is right, and "
            f"leave the others out by {leave_out(written[0].parent)}",
        )


def show_report(console: Console, results: dict[str, Any], output: Path | None) -> None:
    """Table, verdict and page of a comparison."""
    console.print()
    console.print(comparison_table(results["summary"]))
    console.print()
    for text in results["details"]:
        console.print(printable(text), markup=False, highlight=False)
    for note in soup_notes(results["summary"]):
        say(console, f"note: {note}")
    console.print(printable(results["verdict"]), markup=False, highlight=False, style="bold")
    for run in results["runs"]:
        if run["status"] != "ok":
            line = f"failed: {run['method']}, seed {run['seed']}: {run['error']}"
            say(console, line, style="red")
    if output is not None and any(run["status"] == "ok" for run in results["runs"]):
        console.print()
        say(console, f"  {output / 'results.json'}")
        show_written(console, output)


def show_written(console: Console, *directories: Path, output: Path | None = None) -> None:
    """Write a report and say where it is; without matplotlib or jinja2, say what is missing."""
    try:
        paths = write_report(*directories, output=output)
    except ImportError as error:
        say(console, f"note: no report was written: {error}")
        return
    for path in paths:
        say(console, f"  {path}")


def show_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Every check on a line, and the remedy below what is missing."""
    where = diagnosis.provenance
    console.print(f"Python {where['python']}, {where['machine']['system']}", highlight=False)
    widths = [max(len(getattr(c, name)) for c in diagnosis.checks) for name in ("part", "name")]
    for check in diagnosis.checks:
        place = f"{check.part:<{widths[0]}}  {check.name:<{widths[1]}}  "
        mark = MARKS[check.status] + " " * (7 - len(check.status))
        # Not wrapped here, so that a path or a command can be copied whole.
        console.print(f"{place}{mark} {_plain(check.detail)}", highlight=False, soft_wrap=True)
        if check.remedy is not None:
            say(console, f"    -> {check.remedy}")
    broken = [
        check.name for check in diagnosis.checks if check.part == "core" and check.status != OK
    ]
    if broken:
        console.print(f"The core is broken: {', '.join(broken)}", style="red", markup=False)
    else:
        console.print("The core works.", style="green")


def show_registered(console: Console, names: Sequence[Registered]) -> None:
    """All registered names, kind by kind, with what each does."""
    width = max((len(one.name) for one in names), default=0)
    for kind in dict.fromkeys(one.kind for one in names):
        console.print(f"{kind}:", style="bold", markup=False, highlight=False)
        for one in names:
            if one.kind == kind:
                where = "" if one.module is None else f" ({one.module})"
                line = f"  {one.name:<{width}}  {one.line}{where}"
                say(console, line)


def _plain(text: str) -> str:
    """Text that rich must not read as markup, such as ``lipt-cords[cords]``."""
    return printable(text).replace("[", r"\[")


def _place(point: CurvePoint) -> str:
    accuracy = "" if point.val_accuracy is None else f"val {point.val_accuracy:.1%}, "
    return f"{accuracy}epoch {point.epoch}"


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1%}"


def _outcome(record: RunRecord) -> str:
    costs = record.costs
    warm = ""
    if costs.warmup_passes:
        critical, total = count(costs.warmup_critical_passes), count(costs.warmup_passes)
        warm = f", warm-up {total} passes"
        warm += f", {critical} critical" if critical != total else ""
    if costs.selection_passes:
        cut = next((one for one in (record.subsets or {}).get("cuts", ()) if one is not None), None)
        chosen = "" if cut is None else f"cut {cut:.0%}, "
        warm += f", {chosen}trials {count(costs.selection_passes)} passes"
    return _reached(record) + warm


def _reached(record: RunRecord) -> str:
    """One run in a line of 80 columns; a table of all runs has the rest."""
    return f"test {_percent(record.test_accuracy)} in {seconds(record.costs.seconds)} s"
