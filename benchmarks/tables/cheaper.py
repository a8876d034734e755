"""Tables of benchmarks/cheaper: what cheaper steps save, and what they cost, beside controls."""

from __future__ import annotations

import math
import statistics
from typing import Any

from benchmarks.tables.parts import RESULTS, load, markdown, origin, spread

Rows = list[dict[str, Any]]


def _part(name: str) -> dict[str, Any] | None:
    exists = (RESULTS / f"cheaper-{name}.json").exists()
    return load(f"cheaper-{name}") if exists else None


def _methods(results: dict[str, Any]) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in results["rows"]:
        found.setdefault(row["method"], []).append(row)
    return found


def _ratio(rows: Rows, base: Rows, key: str) -> str:
    """Mean over seeds of a cost over the base's of the same seed."""
    before = {row["seed"]: row[key] for row in base}
    ratios = [row[key] / before[row["seed"]] for row in rows]
    return f"{statistics.fmean(ratios):.2f}"


def _plain(values: list[float], digits: int = 3) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _seeds(results: dict[str, Any]) -> str:
    count = len({row["seed"] for row in results["rows"]})
    return f"{count} seed{'s' * (count > 1)}"


def cheaper_warm_start() -> str:
    """Signal and costs of warm starts on a ResNet-20."""
    results = _part("warm-start")
    if results is None:
        return ""
    methods = _methods(results)
    rows = [
        [
            name,
            _plain([row["held_out_rank_correlation"] for row in mine]),
            _plain([row["held_out_class_cosine"] for row in mine]),
            spread([row["held_out_accuracy"] for row in mine]),
            _ratio(mine, methods["plain"], "flops"),
            _ratio(mine, methods["plain"], "critical_path_flops"),
            _ratio(mine, methods["plain"], "training_seconds"),
        ]
        for name, mine in methods.items()
    ]
    head = (
        "Warm start", "Rank correlation of losses", "Cosine of class gradients",
        "Held-out accuracy, %", "FLOPs", "FLOPs, critical path", "Seconds",
    )  # fmt: skip
    return f"ResNet-20, {_seeds(results)}.\n\n" + markdown(head, rows) + origin(results)


def cheaper_layers() -> str:
    """A 12-block transformer with and without paths."""
    results = _part("layers")
    if results is None:
        return ""
    methods = _methods(results)
    rows = [
        [
            name,
            spread([row["accuracy"] for row in mine]),
            _plain([row["loss"] for row in mine]),
            f"{statistics.fmean(row['work'] for row in mine):.2f}",
            _ratio(mine, methods["plain"], "seconds"),
        ]
        for name, mine in methods.items()
    ]
    head = ("Training", "Held-out accuracy, %", "Held-out loss", "FLOPs", "Seconds")
    return (
        "Transformer of 12 blocks, stages 6-8-10-12, 2,000 images, 8 epochs, "
        f"{_seeds(results)}.\n\n" + markdown(head, rows) + origin(results)
    )


def cheaper_ticket() -> str:
    """Early-Bird training against the given net and random tickets."""
    results = _part("ticket")
    if results is None:
        return ""
    methods = _methods(results)
    rows = []
    for name, mine in methods.items():
        drawn = [row["drawn_after"] for row in mine if row["drawn_after"] is not None]
        settled = [row["ticket"]["settled"] for row in mine if row["ticket"]]
        rows.append(
            [
                name,
                spread([row["accuracy"] for row in mine]),
                f"{statistics.fmean(row['work'] for row in mine):.2f}",
                _ratio(mine, methods["dense"], "seconds"),
                f"{100 * statistics.fmean(drawn):.0f} %" if drawn else "-",
                f"{sum(settled)} of {len(settled)}" if settled else "-",
            ]
        )
    head = (
        "Training", "Held-out accuracy, %", "FLOPs", "Seconds", "Drawn after", "Masks had settled",
    )  # fmt: skip
    return (
        f"ResNet-8 of width 32, 3,000 images, 16 epochs, {_seeds(results)}.\n\n"
        + markdown(head, rows)
        + origin(results)
    )


def cheaper_exact() -> str:
    """What must be equal, and the time of a step."""
    results = _part("exact")
    if results is None:
        return ""
    rows = []
    for row in results["rows"]:
        paths, ticket = row["paths"], row.get("ticket")
        cells = [
            row["net"],
            "-".join(map(str, paths["lengths"])),
            "yes" if paths["bit_equal"] else "no",
            f"{paths['flops_planned']:.3f}",
            f"{paths['flops_counted']:.3f}",
            f"{paths['time']['mean']:.2f}",
        ]
        if ticket is None:
            cells += ["-"] * 3
        else:
            cells += [
                f"{ticket['flops']:.2f}",
                f"{1 / ticket['time']['median']:.1f}x",
                f"{ticket['largest_difference']:.0e}",
            ]
        rows.append(cells)
    head = (
        "Net", "Path lengths", "Full length bit-equal to plain", "FLOPs planned", "counted",
        "Time of a step", "Ticket of half the channels: FLOPs", "steps faster",
        "Output against the zeroed net",
    )  # fmt: skip
    return markdown(head, rows) + origin(results)


def _apart(one: Rows, other: Rows, key: str, scale: float, digits: int) -> str:
    """A difference of means, and whether it is more than one pooled deviation."""
    mine, theirs = ([scale * row[key] for row in rows] for rows in (one, other))
    difference = statistics.fmean(mine) - statistics.fmean(theirs)
    if min(len(mine), len(theirs)) < 2:
        return f"{difference:+.{digits}f} (one seed)"
    pooled = math.sqrt((statistics.variance(mine) + statistics.variance(theirs)) / 2)
    beyond = "beyond" if abs(difference) > pooled else "within"
    return f"{difference:+.{digits}f} ({beyond} one pooled deviation, {pooled:.{digits}f})"


def cheaper_reading() -> str:
    """Each method against the control that would expose it."""
    lines = []
    if (results := _part("warm-start")) is not None:
        found = _methods(results)
        for one, cut in (("paths", "plain, cut"), ("ticket, paths", "plain, cut more")):
            rank, accuracy = "held_out_rank_correlation", "held_out_accuracy"
            line = (
                f"- Warm start, {one}, against plain training of as many FLOPs: rank correlation "
                f"{_apart(found[one], found[cut], rank, 1, 3)}, accuracy "
                f"{_apart(found[one], found[cut], accuracy, 100, 1)} points"
            )
            if one == "paths":
                constant = _apart(found[one], found["paths, constant"], accuracy, 100, 1)
                line += f"; {constant} points from constant paths"
            lines.append(line + ".")
    if (results := _part("layers")) is not None:
        found = _methods(results)
        parts = [
            f"{_apart(found['paths'], found[other], 'accuracy', 100, 1)} points from {other}"
            for other in ("plain", "plain, cut", "paths, constant", "stochastic depth")
        ]
        lines.append(f"- Transformer of 12 blocks, paths: {'; '.join(parts)}.")
    if (results := _part("ticket")) is not None:
        found = _methods(results)
        for ratio in ("30%", "50%"):
            rivals = ("dense", f"random ticket, {ratio}", f"dense, cut, {ratio}")
            parts = [
                f"{_apart(found[f'ticket, {ratio}'], found[other], 'accuracy', 100, 1)} points "
                f"from {other}"
                for other in rivals
            ]
            lines.append(
                f"- Training a ticket without {ratio} of the channels: {'; '.join(parts)}."
            )
    return "\n".join(lines) + ("\n" if lines else "")


CHEAPER = (cheaper_reading, cheaper_warm_start, cheaper_layers, cheaper_ticket, cheaper_exact)
