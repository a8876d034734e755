"""Tables of benchmarks/memory: same bits, planned bytes, what they cost, how far they reach."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.parts import load, markdown, origin

Rows = list[dict[str, Any]]


def memory_exact() -> str:
    """Guided steps against plain ones, a row a net."""
    results = load("memory-exact")
    nets: dict[str, Rows] = {}
    for row in results["rows"]:
        nets.setdefault(row["net"], []).append(row)
    rows = []
    for net, mine in nets.items():
        equal = sum(row["bit_equal"] for row in mine)
        off = [
            max(abs(measured / planned - 1) for measured, planned in pairs)
            for pairs in (
                [(row["measured_peak"], row["planned_peak"]) for row in mine],
                [(row["measured_added"], row["planned_added"]) for row in mine],
            )
        ]
        rows.append(
            [
                net,
                f"{len(mine)}",
                "yes" if equal == len(mine) else f"no, {equal}",
                *(f"{100 * one:.2f} %" for one in off),
                f"{min(row['measured_added'] for row in mine):.2f}",
                *(f"{max(row[what] for row in mine)}" for what in ("swapped", "recomputed")),
            ]
        )
    head = (
        "Net", "Plans", "All bits those of plain steps", "Error of the planned peak",
        "of what the step adds to it", "Least that it adds, plain = 1",
        "Activations swapped, at most", "recomputed",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


def _percent(value: float | None) -> str:
    return "none fits" if value is None else f"{100 * value:.1f} %"


def memory_overhead() -> str:
    """Time and peak of every way, and what faster devices would take."""
    results = load("memory-overhead")
    rows = []
    for row in results["rows"]:
        for way in row["ways"]:
            rows.append(
                [
                    f"{row['net']}: {way['way']}",
                    f"{way['time']:.2f} ({way['low']:.2f} to {way['high']:.2f})",
                    f"{way['peak'] / 2**20:.0f}",
                    f"{(way['peak'] - row['base']) / row['added']:.2f}",
                    ", ".join(way["differs"]) or "nothing",
                ]
            )
    head = ("Net and way", "Time, plain = 1", "Peak, MiB", "Memory that the step adds, plain = 1",
            "Differs from plain training in")  # fmt: skip
    shares = ", ".join(f"{row['net']} {row['share']:g}" for row in results["rows"])
    policies = list(dict.fromkeys(one["policy"] for one in results["rows"][0]["predicted"]))
    faster = [
        [row["net"] + (f", a device {speed} times faster" if speed > 1 else "")]
        + [_percent(one["overhead"]) for one in row["predicted"] if one["speed"] == speed]
        for row in results["rows"]
        for speed in dict.fromkeys(one["speed"] for one in row["predicted"])
    ]
    return (
        markdown(head, rows)
        + "\nWhat a step adds is all that is not there before it: activations, and gradients and "
        + f"temporary tensors too. Planned at a share of it: {shares}. Median and extremes of "
        + f"{results['rounds']} rounds.\n\n"
        + markdown(["Predicted overhead of a plan at that budget", *policies], faster)
        + origin(results)
    )


def memory_reach() -> str:
    """The largest batches within 16 GiB, plain and planned, beside Capuchin's."""
    results = load("memory-reach")
    rows = []
    for row in results["rows"]:
        theirs = row["capuchin"]
        off = max(abs(row["check"][what] - 1) for what in ("plain_peak", "least"))
        rows.append(
            [
                row["net"],
                *(f"{row[what]:,}" for what in ("plain", "planned")),
                f"{row['ratio']:.2f}",
                *(_percent(row["overhead"][what]) for what in ("planned", "twice")),
                f"{theirs['planned']:,}/{theirs['plain']:,} = {theirs['ratio']:.2f}",
                f"{100 * off:.2f} %",
            ]
        )
    head = (
        "Net, 224x224", "Plain batch", "Planned batch", "Ratio", "Predicted overhead there",
        "at twice the plain batch", "Capuchin's ratio, on a P100",
        "Extrapolated bytes, error at a batch of 12",
    )  # fmt: skip
    first = results["rows"][0]
    return (
        f"{first['budget'] / 2**30:g} GiB, weights, gradients and momentum included; batches are "
        f"extrapolated from {first['extrapolated_from'][0]} and {first['extrapolated_from'][1]} "
        f"samples, overheads are for a device {first['speed']} times faster than this core behind "
        f"{first['bandwidth'] / 1e9:g} GB/s.\n\n" + markdown(head, rows) + origin(results)
    )


MEMORY = (memory_exact, memory_overhead, memory_reach)
