"""What the memory plan of a step looks like on a terminal, 80 columns wide."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lipt_cords.base.sizes import show_bytes
from lipt_cords.cli.lines import say
from lipt_cords.experiments.memory_plan import MemoryRun
from lipt_cords.training.memory.largest_batch import LargestBatch
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP, Trace

MOST_MOVED = 5
"""Moved activations that are named."""
SAID = {KEEP: "kept", SWAP: "swapped", RECOMPUTE: "recomputed"}


def show_measured(console: Console, samples: int, trace: Trace, budget: int) -> None:
    """One line for every batch size that a search has measured."""
    fits = "within" if trace.peak <= budget else "above"
    peak = show_bytes(trace.peak)
    console.print(
        f"  measured a batch of {samples:,}: {peak} without a plan, {fits} the budget",
        markup=False, highlight=False,
    )  # fmt: skip


def show_memory_plan(console: Console, made: MemoryRun) -> None:
    """What a step takes, what the plan makes of it, and how the step that followed it went."""
    plan, guided = made.plan, made.guided
    host = "a simulated host" if made.device == "cpu" else "the host"
    console.print(
        f"{made.config['model']['architecture']} on {made.device}, a step on {made.batch_size:,} "
        f"samples, {plan.bandwidth / 1e9:.3g} GB a second to {host}",
        markup=False, highlight=False,
    )  # fmt: skip
    if made.speed != 1:
        console.print(
            f"planned as for a device {made.speed:g} times as fast; the guided step ran on this "
            "one, so its waits are shorter than they would be there",
            style="yellow", markup=False, highlight=False,
        )  # fmt: skip
    console.print(_peaks(made))
    console.print()
    console.print(_decisions(made))
    if made.moved:
        console.print()
        console.print(_moved(made))
    console.print()
    there = "" if made.speed == 1 else ", on that device,"
    console.print(
        f"Predicted: the plan adds {100 * plan.overhead:.1f} %{there} to a plain step of "
        f"{_time(plan.trace.seconds)}. Taken here: the guided step waited {_time(guided.waited)} "
        f"and recomputed for {_time(guided.recomputed)}.",
        markup=False, highlight=False,
    )  # fmt: skip
    if made.same_bits:
        console.print("Loss, gradients and weights have the bits of the measured step.")
    else:
        console.print(
            "warning: loss, gradients or weights differ from the measured step's, as they may "
            "where a GPU's kernels are not deterministic",
            style="yellow", markup=False, highlight=False,
        )  # fmt: skip
    if made.largest is not None:
        _show_largest(console, made.largest)
    for note in made.notes:
        say(console, f"note: {note}")
    say(console, f"next: {_next(made)}")


def _peaks(made: MemoryRun) -> Table:
    plain, plan, measured = made.plain, made.plan, made.guided.measured_peak
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name, size in (
        ("plain step's peak", plain.total),
        ("  weights and buffers", made.weights),
        ("  optimizer's state", made.optimizer_state),
        ("  inputs", plain.inputs),
        ("  activations", plain.activations),
        ("  gradients at that moment", plain.gradients),
        ("  temporary", plain.temporary),
        ("budget", plan.budget),
        ("planned peak", plan.peak),
        ("measured peak", measured),
    ):
        table.add_row(name, "not measured" if size is None else show_bytes(size))
    return table


def _decisions(made: MemoryRun) -> Table:
    """How many activations are kept, swapped and recomputed, and their bytes."""
    table = _table("Activations", "Storages", "Bytes")
    sizes, counts = made.plan.bytes_by_decision(), made.counts
    for decision, name in SAID.items():
        table.add_row(name, f"{counts[decision]:,}", show_bytes(sizes[decision]))
    return table


def _moved(made: MemoryRun) -> Table:
    """The largest activations that do not stay."""
    table = _table("Moved, largest first", "Bytes", "How")
    for one in made.moved[:MOST_MOVED]:
        table.add_row(one.block or "(no module)", show_bytes(one.size), SAID[one.decision])
    if len(made.moved) > MOST_MOVED:
        rest = made.moved[MOST_MOVED:]
        table.add_row(f"and {len(rest):,} more", show_bytes(sum(one.size for one in rest)), "")
    return table


def _show_largest(console: Console, found: LargestBatch) -> None:
    alike = found.ratio is None or found.planned == found.plain
    ratio = "" if alike else f", {found.ratio:.2g} times as many"
    console.print(
        f"Largest batch, to 5 %: {found.plain:,} samples without a plan, {found.planned:,} "
        f"with one{ratio}.",
        markup=False, highlight=False,
    )  # fmt: skip
    if found.stopped is not None:
        say(console, f"note: {found.stopped}")


def _next(made: MemoryRun) -> str:
    """What to do with it."""
    if not made.moved:
        if made.largest is None:
            return "nothing: the plain step fits the budget"
        return f"dataloader.batch_size: {made.batch_size}, which fits without a plan"
    size, budget = made.batch_size, show_bytes(made.plan.budget)
    return (
        f"in the configuration, dataloader.batch_size: {size} and train_args.memory_budget: "
        f'{budget}; or train_on_subset(..., batch_size={size}, memory_budget="{budget}")'
    )


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, heading in enumerate(headings):
        right = place > 0 and heading != "How"
        table.add_column(heading, justify="right" if right else "left", no_wrap=place > 0)
    return table


def _time(seconds: float) -> str:
    """Milliseconds below a second.

    >>> _time(0.01234), _time(12.3)
    ('12.3 ms', '12.30 s')
    """
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
