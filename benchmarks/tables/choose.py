"""Tables of benchmarks/choose.py: a fixed subset that is chosen without training."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.fixed import first_use, of, signed, uncut
from benchmarks.tables.parts import load, markdown, origin_of, results_of, spread


def measured() -> list[tuple[str, dict[str, Any]]]:
    """The committed results, set by set."""
    return results_of("choose")


def fractions_of(results: dict[str, Any]) -> list[float]:
    """Fractions at which a subset was chosen, ascending."""
    return sorted({row["fraction"] for row in results["rows"] if row["method"] == "chosen"})


def above_random(results: dict[str, Any], fraction: float) -> list[float]:
    """What the chosen subset reaches above the random one, seed by seed."""
    random = {row["seed"]: row["accuracy"] for row in of(results, fraction, "random")}
    return [row["accuracy"] - random[row["seed"]] for row in of(results, fraction, "chosen")]


def share_of_training(results: dict[str, Any], fraction: float) -> float:
    """Processor time of choosing over that of one training on the subset."""
    rows = of(results, fraction, "chosen")
    spent = [row["choosing_cpu_seconds"] / row["training_cpu_seconds"] for row in rows]
    return statistics.fmean(spent)


def rivals(name: str, fraction: float) -> list[str]:
    """LiPT's difficulty with trial trainings, and one worker's: accuracy; and the bill."""
    results = load(f"fixed_subset-{name}")
    if uncut(results, fraction):
        return ["the random one", "the random one"]
    return [
        spread([row["accuracy"] for row in of(results, fraction, method)])
        for method in ("lipt", "one-worker")
    ]


def chosen() -> str:
    """Fixed subsets: random, chosen without training, and by the scores of trained models."""
    text = ""
    for name, results in measured():
        rows = []
        for fraction in fractions_of(results):
            found = of(results, fraction, "chosen")
            seeds = {row["seed"] for row in found}
            random = [row for row in of(results, fraction, "random") if row["seed"] in seeds]
            rows.append(
                [
                    f"{100 * fraction:.0f} %",
                    spread([row["accuracy"] for row in random]),
                    spread([row["accuracy"] for row in found]),
                    signed(above_random(results, fraction)),
                    f"{100 * share_of_training(results, fraction):.0f} %",
                    *rivals(name, fraction),
                ]
            )
        head = (
            "Fraction", "Random, %", "`choose_subset`, %", "Difference, points",
            "Choosing, of one training's time", "LiPT's difficulty and trials, %",
            "One worker's, %",
        )  # fmt: skip
        few, many = first_use(load(f"fixed_subset-{name}"))
        text += (
            f"{name}, {len(seeds)} seeds.\n\n"
            + markdown(head, rows)
            + f"\nLiPT's warm-up, trials and training make {few:.1f} to {many:.1f} times the "
            "passes of the training.\n\n"
        )
    return text + origin_of(measured())


CHOOSING = (chosen,)
