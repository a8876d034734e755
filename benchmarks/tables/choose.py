"""Tables of benchmarks/choose.py: a fixed subset that is chosen without training."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables.evidence import of, signed
from benchmarks.tables.parts import RESULTS, load, markdown, origin, spread

SETS = ("cifar10-jpeg", "fashion-mnist")


def measured() -> list[tuple[str, dict[str, Any]]]:
    """The committed results, set by set."""
    names = [name for name in SETS if (RESULTS / f"choose-{name}.json").exists()]
    return [(name, load(f"choose-{name}")) for name in names]


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


def chosen() -> str:
    """Accuracy after training on subsets that were chosen without training, and the cost."""
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
                    f"{len(seeds)}",
                    spread([row["accuracy"] for row in random]),
                    spread([row["accuracy"] for row in found]),
                    signed(above_random(results, fraction)),
                    ", ".join(f"{100 * row['cut']:.0f}" for row in found),
                    f"{100 * share_of_training(results, fraction):.0f} %",
                ]
            )
        head = (
            "Fraction", "Seeds", "Random, %", "Chosen, %", "Difference, points",
            "Cut, % by seed", "Choosing, of one training's time",
        )  # fmt: skip
        text += f"{name}.\n\n" + markdown(head, rows) + origin(results) + "\n"
    return text


CHOOSING = (chosen,)
