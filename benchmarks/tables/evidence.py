"""Tables of the evidence: what selection and the warm start are worth, and what they cost."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.parts import load, markdown, origin, spread

SETS = ("cifar10-jpeg", "fashion-mnist")


def of(results: dict[str, Any], fraction: float, method: str) -> list[dict[str, Any]]:
    """Rows of a method at a fraction, seed by seed."""
    rows = [
        row for row in results["rows"] if (row["fraction"], row["method"]) == (fraction, method)
    ]
    return sorted(rows, key=lambda row: row["seed"])


def gains(
    results: dict[str, Any], fraction: float, method: str = "lipt", than: str = "random"
) -> list[float]:
    """What a subset by difficulty reaches above another one, seed by seed."""
    pairs = zip(of(results, fraction, method), of(results, fraction, than), strict=True)
    return [one["accuracy"] - other["accuracy"] for one, other in pairs]


def again(results: dict[str, Any], fraction: float) -> list[float]:
    """What LiPT's subset reached on the machine that ran one worker's, if not on its own."""
    return [row["accuracy"] for row in of(results, fraction, "lipt-again")]


def against_one_worker(results: dict[str, Any], fraction: float) -> list[float]:
    """LiPT's subset against one worker's, both trained on one machine."""
    mine = "lipt-again" if again(results, fraction) else "lipt"
    return gains(results, fraction, mine, "one-worker")


def uncut(results: dict[str, Any], fraction: float) -> bool:
    """Whether no seed's trials chose a cut, so that every subset is the random one."""
    return not any(row["cut"] for row in of(results, fraction, "lipt"))


def signed(values: list[float]) -> str:
    """Mean difference and its deviation over seeds, in points."""
    return f"{100 * statistics.fmean(values):+.1f} ± {100 * statistics.stdev(values):.1f}"


def first_use(results: dict[str, Any]) -> tuple[float, float]:
    """Passes of the first training with all that it takes, over the training's: least and most."""
    found = [
        (row["warmup_passes"] + row["pilot_passes"] + row["training_passes"])
        / row["training_passes"]
        for row in results["rows"] if row["method"] == "lipt"
    ]  # fmt: skip
    return min(found), max(found)


def fixed_subset() -> str:
    """A fixed subset by LiPT's difficulty against random, with the bill."""
    text = ""
    for name in SETS:
        results = load(f"fixed_subset-{name}")
        rows = []
        for fraction in dict.fromkeys(row["fraction"] for row in results["rows"]):
            parts = {m: of(results, fraction, m) for m in ("random", "lipt", "one-worker", "full")}
            reached = {m: [row["accuracy"] for row in part] for m, part in parts.items()}
            gain = gains(results, fraction)
            cuts = ", ".join(f"{100 * row['cut']:.0f}" for row in parts["lipt"])
            one = parts["lipt"][0]
            rows.append(
                [
                    f"{100 * fraction:.0f} %",
                    spread(reached["random"]),
                    spread(reached["lipt"]),
                    "no cut: the random subset" if uncut(results, fraction) else signed(gain),
                    spread(reached["one-worker"]),
                    *([spread(more)] if (more := again(results, fraction)) else []),
                    spread(reached["full"]),
                    cuts,
                    f"{one['training_passes']:,}",
                    f"{one['pilot_passes']:,}",
                ]
            )
        anew = again(results, results["rows"][0]["fraction"])
        head = (
            "Fraction", "Random, %", "LiPT's difficulty, %", "Difference", "One worker's, %",
            *(["LiPT's again, beside it, %"] if anew else []),
            "Full data's, %", "Cut, % by seed", "Training passes", "Passes of trials",
        )  # fmt: skip
        lipt, alone, full = (
            of(results, results["rows"][0]["fraction"], m)[0]
            for m in ("lipt", "one-worker", "full")
        )
        seeds = len({row["seed"] for row in results["rows"]})
        text += (
            f"{name}, {seeds} seeds. The warm start: {lipt['warmup_critical_passes']:,} passes on "
            f"the critical path, {lipt['warmup_passes']:,} in all; one worker: "
            f"{alone['warmup_passes']:,}; the full-data warm-up: {full['warmup_passes']:,}.\n\n"
            + markdown(head, rows)
            + origin(results)
            + "\n"
        )
    return text


def fixed_subset_headline() -> str:
    """What the fixed subset is worth, in a sentence a set."""
    sentences = []
    for name in SETS:
        results = load(f"fixed_subset-{name}")
        parts = []
        for fraction in dict.fromkeys(row["fraction"] for row in results["rows"]):
            if not uncut(results, fraction):
                parts.append(
                    f"{signed(gains(results, fraction))} at {100 * fraction:.0f} % (trained beside "
                    f"one worker's: {signed(against_one_worker(results, fraction))} from it)"
                )
        seeds = len({row["seed"] for row in results["rows"]})
        few, many = first_use(results)
        sentences.append(
            f"On {name}, {seeds} seeds, LiPT's difficulty against random: {'; '.join(parts)}; "
            f"elsewhere no cut was chosen. Warm start, trials and training together make {few:.1f} "
            f"to {many:.1f} times the passes of training on the random subset."
        )
    return " ".join(sentences) + "\n"


EVIDENCE = (fixed_subset, fixed_subset_headline)
