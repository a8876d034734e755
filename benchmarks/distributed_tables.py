"""The tables of docs/distributed.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from table_parts import load, markdown, origin

SETS = ("fashion-mnist", "cifar10-jpeg")
SIGNALS = ("pool_rank_correlation", "pool_class_cosine", "held_out_loss")


def scaling() -> str:
    """Equal bits, and bytes on the wire."""
    results = load("scaling")
    rows = []
    for wire in results["wire"]:
        equal = [row for row in results["equality"] if row["ranks"] == wire["ranks"]]
        bits = all(row["workers_bitwise"] and row["merge_bitwise"] for row in equal)
        rows.append(
            [
                str(wire["ranks"]),
                "equal" if bits else "differ",
                f"{wire['float_state_bytes']:,}",
                f"{wire['measured_bytes_per_round']:,.0f}",
                f"{wire['measured_over_state_times_ranks']:.2f}",
            ]
        )
    head = (
        "Ranks", "Workers and merges against serial, 1 and 3 rounds", "Float state, bytes",
        "Measured on the wire, bytes a round", "In units of float state x ranks",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


def scaling_reading() -> str:
    """Speed and start."""
    results = load("scaling")
    start, speed = results["launch_overhead"], results["speed"]["two_ranks_over_one"]
    return (
        f"Two ranks of one thread train {speed:.2f} times as many samples a second as one process "
        f"of one thread. Starting {start['ranks']} local processes and handing back the result "
        f"takes {start['median']:.2f} s once torch is imported.\n"
    )


def frontier() -> str:
    """Gradient signal against passes and bytes."""
    rows = []
    for name in SETS:
        results = load(f"frontier-{name}")
        for label, group in grouped(results["rows"]).items():
            end = [row["end"] for row in group]
            rows.append(
                [
                    f"{name}, {label}",
                    f"{end[0]['critical_path_passes']:,}",
                    _bytes(group[0]["bytes_with_a_rank_a_worker"]),
                    *(_spread([one[signal] for one in end]) for signal in SIGNALS),
                ]
            )
    head = (
        "Warm-up", "Critical path, passes", "MB between 16 ranks", "Rank correlation of losses",
        "Cosine of class gradients", "Held-out loss",
    )  # fmt: skip
    return markdown(head, rows) + "".join(origin(load(f"frontier-{name}")) for name in SETS)


def frontier_reading() -> str:
    """How far the critical path shrinks at the signal of ten full epochs."""
    return " ".join(_frontier_sentence(name) for name in SETS) + "\n"


def _frontier_sentence(name: str) -> str:
    groups = grouped(load(f"frontier-{name}")["rows"])
    mark = {s: statistics.fmean(r["end"][s] for r in groups[FULL]) for s in SIGNALS}
    passes = groups[FULL][0]["end"]["critical_path_passes"]
    lipt = groups[RECOMMENDED]
    mine = {s: statistics.fmean(r["end"][s] for r in lipt) for s in SIGNALS}
    ratio = passes / lipt[0]["end"]["critical_path_passes"]
    reached = [s for s in SIGNALS if _as_good(s, mine[s], mark[s])]
    text = (
        f"On {name} 40 rounds with outer Nesterov make {ratio:.1f} times fewer passes on the "
        f"critical path than 10 full epochs at a constant rate ({len(lipt)} seeds against "
        f"{len(groups[FULL])}) and are as good or better by {_words(reached)}"
    )
    missed = [s for s in SIGNALS if s not in reached]
    text += f", not by {_words(missed)}." if missed else "."
    if ANNEALED in groups:
        annealed = {s: statistics.fmean(r["end"][s] for r in groups[ANNEALED]) for s in SIGNALS}
        better = [s for s in SIGNALS if not _as_good(s, mine[s], annealed[s])]
        text += (
            f" Ten full epochs with an annealed rate are better by {_words(better)}."
            if better
            else " Ten full epochs with an annealed rate are no better."
        )
    if DDP in groups:
        ddp = {s: statistics.fmean(r["end"][s] for r in groups[DDP]) for s in SIGNALS}
        better = [s for s in SIGNALS if not _as_good(s, mine[s], ddp[s])]
        sent = groups[DDP][0]["bytes_with_a_rank_a_worker"]
        more = sent / lipt[0]["bytes_with_a_rank_a_worker"]
        text += (
            f" Data-parallel training of the same critical path sends {more:.0f} times the bytes "
            f"and is better by {_words(better)}."
        )
    return text


def stability() -> str:
    """How well each run-time statistic follows the signal measured against long warm-ups."""
    rows = []
    for name in load("stability")["statistics"]:
        found = load("stability")["statistics"][name]
        cells = [f"{found[s]:.2f}" if found.get(s) is not None else "-" for s in SETS]
        rows.append([name.replace("_", " "), *cells])
    head = ("Statistic at run time", *(f"Rank correlation with the signal, {s}" for s in SETS))
    return markdown(head, rows) + "\n`python benchmarks/stability.py`\n"


def faults() -> str:
    """Injected faults and how the runs ended."""
    results = load("faults")
    rows = [
        [
            row["scenario"].replace("_", " "),
            str(row["trials"]),
            str(row["ended_merged"]),
            str(row["ended_with_clear_error"]),
            str(row["hung"]),
            f"{row['resumed_equal']} of {row['resumed']}",
            str(row["finished_workers_lost"]),
        ]
        for row in results["scenarios"]
    ]
    head = (
        "Fault, at random moments", "Trials", "Ended merged", "Ended with a clear error", "Hung",
        "Resumed with equal bits", "Finished workers lost",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


def together() -> str:
    """Workers trained at once against in turn."""
    results = load("together")
    rows = [
        [row["net"], str(row["workers"]), f"{row['together_over_in_turn']:.2f}"]
        for row in results["rows"]
    ]
    head = ("Net", "Workers at once", "Speed relative to in turn")
    return markdown(head, rows) + origin(results)


FULL, ANNEALED = "10 full epochs, constant, batch 64", "10 full epochs, cosine, batch 64"
RECOMMENDED = "40 rounds, nesterov"
DDP = "data-parallel, cosine, batch 256"
LABELS: dict[str, Callable[[dict[str, Any]], str]] = {
    "full": lambda r: f"10 full epochs, {r['schedule']}, batch {r['batch']}",
    "lipt": lambda r: (
        f"{r['rounds']} rounds, {r['outer']}" if r["rounds"] > 1 else "LiPT, one merge"
    ),
    "ddp": lambda r: f"data-parallel, {r['schedule']}, batch {r['batch']}",
    "one worker": lambda r: f"one worker, {r['schedule']}, batch {r['batch']}",
}


def grouped(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by what they are, seeds together, the cheapest in bytes first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: (r["bytes_with_a_rank_a_worker"], r["kind"])):
        groups.setdefault(LABELS[row["kind"]](row), []).append(row)
    return groups


def _as_good(signal: str, mine: float, other: float) -> bool:
    return mine <= other if signal == "held_out_loss" else mine >= other


def _words(signals: list[str]) -> str:
    names = {
        "pool_rank_correlation": "rank correlation",
        "pool_class_cosine": "class-gradient cosine",
        "held_out_loss": "held-out loss",
    }
    return " and ".join(names[signal] for signal in signals) or "nothing"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _bytes(value: float) -> str:
    return f"{value / 1e6:,.0f}" if value else "0"


DISTRIBUTED = (
    scaling, scaling_reading, frontier, frontier_reading, stability, faults, together,
)  # fmt: skip
