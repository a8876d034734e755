"""The tables of docs/distributed.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.tables.parts import load, markdown, measured, origin

SETS = ("fashion-mnist", "cifar10-jpeg")
SIGNALS = {
    "pool_rank_correlation": "rank correlation",
    "pool_class_cosine": "class-gradient cosine",
    "held_out_loss": "held-out loss",
}


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
                    megabytes(group[0]["bytes_with_a_rank_a_worker"]),
                    *(measured([one[signal] for one in end]) for signal in SIGNALS),
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
    # A constant rate never settles: its signal is the mean of the last three epochs, over seeds.
    mark = _means([point for row in groups[FULL] for point in row["points"][-3:]])
    passes = groups[FULL][0]["end"]["critical_path_passes"]
    text = (
        f"**{name}**: 10 full epochs at a constant rate ({_seeds(groups[FULL])}, mean of "
        f"the last three epochs) reach {_shown(mark)}."
    )
    for label in (RECOMMENDED, SHORT, "LiPT, one merge"):
        group = groups.get(label, [])
        if not group:
            continue
        mine = _means([row["end"] for row in group])
        ratio = passes / group[0]["end"]["critical_path_passes"]
        text += (
            f" {label} ({_seeds(group)}) with {ratio:.1f} times fewer passes: "
            f"{_against(mine, mark)}."
        )
    mine = _means([row["end"] for row in groups[RECOMMENDED]])
    if ANNEALED in groups:
        annealed = _means([row["end"] for row in groups[ANNEALED]])
        text += (
            " Against 10 full epochs with an annealed rate, 40 rounds are "
            f"{_against(mine, annealed)}."
        )
    if DDP in groups:
        short = _means([row["end"] for row in groups[SHORT]])
        ddp = groups[DDP][0]
        more = ddp["bytes_with_a_rank_a_worker"] / groups[SHORT][0]["bytes_with_a_rank_a_worker"]
        text += (
            f" Against data-parallel training of the same critical path, which sends {more:.0f} "
            f"times the bytes, 32 rounds are {_against(short, _means([ddp['end']]))}."
        )
    worker = groups.get("one worker, cosine, batch 16")
    if worker and "LiPT, one merge" in groups:
        merge = _means([row["end"] for row in groups["LiPT, one merge"]])
        text += (
            " Against one worker with an annealed rate on the whole pool, as long as the critical "
            f"path, one merge is {_against(merge, _means([worker[0]['end']]))}."
        )
    return text


def frontier_headline() -> str:
    """The recommended setting against ten full epochs, in a sentence for each set."""
    sentences = []
    for name in SETS:
        groups = grouped(load(f"frontier-{name}")["rows"])
        mark = _means([point for row in groups[FULL] for point in row["points"][-3:]])
        mine = _means([row["end"] for row in groups[RECOMMENDED]])
        ratio = (
            groups[FULL][0]["end"]["critical_path_passes"]
            / groups[RECOMMENDED][0]["end"]["critical_path_passes"]
        )
        sentences.append(
            f"On {name}, 16 workers merged 40 times have the gradient signal of 10 full epochs at "
            f"a constant rate with {ratio:.1f} times fewer passes on the critical path "
            f"({_seeds(groups[RECOMMENDED])}): {_against(mine, mark)}."
        )
        if ANNEALED in groups:
            annealed = _means([row["end"] for row in groups[ANNEALED]])
            sentences.append(f"Against an annealed rate: {_against(mine, annealed)}.")
    return " ".join(sentences) + "\n"


def _seeds(group: list[dict[str, Any]]) -> str:
    return f"{len(group)} seed" + "s" * (len(group) > 1)


def _means(points: list[dict[str, Any]]) -> dict[str, float]:
    return {s: statistics.fmean(point[s] for point in points) for s in SIGNALS}


def _shown(means: dict[str, float]) -> str:
    return ", ".join(f"{SIGNALS[s]} {means[s]:.3f}" for s in SIGNALS)


def _against(mine: dict[str, float], other: dict[str, float]) -> str:
    """In which measures a model is as good as another, or better, and in which it is worse."""
    worse = [s for s in SIGNALS if (mine[s] - other[s]) * (-1 if s == "held_out_loss" else 1) < 0]
    if not worse:
        return "as good or better by every measure"
    better = [SIGNALS[s] for s in SIGNALS if s not in worse]
    text = f"worse by {' and '.join(SIGNALS[s] for s in worse)}"
    return text + (f", as good or better by {' and '.join(better)}" if better else "")


def stability() -> str:
    """How well each run-time statistic follows the signal measured against long warm-ups."""
    results = load("stability")
    names = next(iter(results["sets"].values()))["agreement"]
    rows = []
    for name in names:
        cells = [name.replace("_", " ")]
        for found in results["sets"].values():
            values = found["agreement"][name]
            cells += ["-" if values[part] is None else f"{values[part]:.2f}" for part in PARTS]
        rows.append(cells)
    head = ["Statistic at run time"]
    for name, found in results["sets"].items():
        head += [f"{name}, {PARTS[part]} ({found['rounds'][part]})" for part in PARTS]
    return markdown(head, rows) + origin(results)


def stability_reading() -> str:
    """Whether the predicted benefit comes true."""
    found = load("stability")["sets"]
    parts = [
        f"{one['next_fall']['agreement']:.2f} on {name} ({one['next_fall']['rounds']} rounds)"
        for name, one in found.items()
    ]
    return (
        "The recent fall of the merged loss (`benefit`) is no measure of quality but of what is "
        "still to come: its rank correlation with the true fall of the held-out loss up to the "
        f"next measured round is {' and '.join(parts)}.\n"
    )


def faults() -> str:
    """Injected faults and how the runs ended."""
    results = load("faults")
    rows = [
        [
            name,
            str(found["trials"]),
            str(found["ended_merged"]),
            str(found["ended_with_clear_error"]),
            str(found["ended_with_unclear_error"] + found["hung"]),
            f"{found['resumed_equal']} of {found['resumed']}" if found["resumed"] else "-",
            str(found["finished_workers_lost"]),
            str(found["orphans"] + found["files_left"] + found["wrong_bits"]),
        ]
        for name, found in results["scenarios"].items()
    ]
    head = (
        "Fault, at random moments", "Trials", "Ended merged", "Ended with a clear error",
        "Hung or unclear",
        "Resumed with equal bits", "Finished workers lost", "Orphans, files left, wrong bits",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


def steady() -> str:
    """What one process keeps of hundreds of calls."""
    results = load("steady")
    rows = []
    for name, found in results["series"].items():
        growth = found["memory_growth_bytes_per_call"]
        more = found["more"]
        rows.append(
            [
                name,
                f"{found['calls']} x {len(found['seeds'])}",
                f"{growth['mean']:,.0f} ({growth['min']:,.0f} to {growth['max']:,.0f})",
                str(max(more["descriptors"])),
                str(max(more["native_threads"])),
                str(max(more["children"])),
            ]
        )
    head = (
        "In one process", "Calls x seeds", "More memory, bytes a call", "More descriptors",
        "More threads", "More children",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


def together() -> str:
    """Workers trained at once against in turn."""
    results = load("together")
    sizes = results["settings"]["sizes"]
    rows = [
        [net["title"], *(f"{net['speedup'][str(size)]:.2f}" for size in sizes)]
        for net in results["nets"].values()
    ]
    head = ("Net, speed relative to in turn", *(f"{size} workers at once" for size in sizes))
    return markdown(head, rows) + origin(results)


PARTS = {"all": "all rounds", "steady": "before the rate falls", "end": "ends alone"}
FULL, ANNEALED = "10 full epochs, constant, batch 64", "10 full epochs, cosine, batch 64"
RECOMMENDED, SHORT = "40 rounds, nesterov", "32 rounds, nesterov"
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


def megabytes(value: float) -> str:
    """Bytes as whole megabytes."""
    return f"{value / 1e6:,.0f}" if value else "0"


DISTRIBUTED = (
    scaling, scaling_reading, frontier, frontier_headline, frontier_reading, stability,
    stability_reading, faults, steady, together,
)  # fmt: skip
