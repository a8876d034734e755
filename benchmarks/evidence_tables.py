"""Tables of the evidence: what selection and the warm start are worth, and what they cost."""

from __future__ import annotations

import statistics
from typing import Any

from table_parts import load, markdown, origin, spread

SETS = ("cifar10-jpeg", "fashion-mnist")


def of(results: dict[str, Any], fraction: float, method: str) -> list[dict[str, Any]]:
    """Rows of a method at a fraction, seed by seed."""
    rows = [
        row for row in results["rows"] if (row["fraction"], row["method"]) == (fraction, method)
    ]
    return sorted(rows, key=lambda row: row["seed"])


def gains(results: dict[str, Any], fraction: float) -> list[float]:
    """What LiPT's subset reaches above the random one, seed by seed."""
    pairs = zip(of(results, fraction, "lipt"), of(results, fraction, "random"), strict=True)
    return [one["accuracy"] - other["accuracy"] for one, other in pairs]


def signed(values: list[float]) -> str:
    """Mean difference and its deviation over seeds, in points."""
    return f"{100 * statistics.fmean(values):+.1f} ± {100 * statistics.stdev(values):.1f}"


def fixed_subset() -> str:
    """A fixed subset by LiPT's difficulty against random, with the bill."""
    text = ""
    for name in SETS:
        results = load(f"fixed_subset-{name}")
        rows = []
        for fraction in dict.fromkeys(row["fraction"] for row in results["rows"]):
            parts = {m: of(results, fraction, m) for m in ("random", "lipt", "full")}
            reached = {m: [row["accuracy"] for row in part] for m, part in parts.items()}
            gain = gains(results, fraction)
            cuts = ", ".join(f"{100 * row['cut']:.0f}" for row in parts["lipt"])
            one = parts["lipt"][0]
            rows.append(
                [
                    f"{100 * fraction:.0f} %",
                    spread(reached["random"]),
                    spread(reached["lipt"]),
                    signed(gain),
                    spread(reached["full"]),
                    cuts,
                    f"{one['training_passes']:,}",
                    f"{one['pilot_passes']:,}",
                ]
            )
        head = (
            "Fraction", "Random, %", "LiPT's difficulty, %", "Difference", "Full data's, %",
            "Cut, % by seed", "Training passes", "Passes of trials",
        )  # fmt: skip
        lipt, full = (of(results, results["rows"][0]["fraction"], m)[0] for m in ("lipt", "full"))
        seeds = len({row["seed"] for row in results["rows"]})
        text += (
            f"{name}, {seeds} seeds. The warm start: {lipt['warmup_critical_passes']:,} passes on "
            f"the critical path, {lipt['warmup_passes']:,} in all; the full-data warm-up: "
            f"{full['warmup_passes']:,}.\n\n" + markdown(head, rows) + origin(results) + "\n"
        )
    return text


def fixed_subset_headline() -> str:
    """What the fixed subset is worth, in a sentence a set."""
    sentences = []
    for name in SETS:
        results = load(f"fixed_subset-{name}")
        parts = []
        for fraction in dict.fromkeys(row["fraction"] for row in results["rows"]):
            parts.append(f"{signed(gains(results, fraction))} at {100 * fraction:.0f} %")
        seeds = len({row["seed"] for row in results["rows"]})
        sentences.append(f"On {name}, {seeds} seeds: " + ", ".join(parts) + ".")
    return " ".join(sentences) + "\n"


EVIDENCE = (fixed_subset, fixed_subset_headline)
