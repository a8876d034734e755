"""Tables of benchmarks/evidence.py's search, and of selectors that are run again and again."""

from __future__ import annotations

from benchmarks.tables.parts import markdown, origin, spread
from benchmarks.tables.question import (
    accuracies,
    asked,
    by_method,
    compared,
    costs_of,
    heading,
    mean,
    runs_of,
)


def search() -> str:
    """Fractions by methods at one critical path, then how often to select at a tenth."""
    text = ""
    for name, results in asked("search"):
        found = runs_of(results)
        fractions = sorted({fraction for _, fraction in found})
        methods = list(dict.fromkeys(method for method, _ in found))
        labels = {method: runs[0]["label"] for (method, _), runs in found.items()}
        rows = [
            [labels[method]]
            + [
                spread(accuracies(found[method, fraction])) if (method, fraction) in found else "-"
                for fraction in fractions
            ]
            for method in methods
        ]
        for part in range(1, len(results["parts"])):
            for (_, fraction), runs in runs_of(results, part).items():
                cells = ["-"] * len(fractions)
                cells[fractions.index(fraction)] = spread(accuracies(runs))
                rows.append([runs[0]["label"], *cells])
        head = ("Method", *(f"{100 * fraction:g} %" for fraction in fractions))
        text += heading(name, results) + markdown(head, rows) + origin(results) + "\n"
    return text


def search_reading() -> str:
    """At which fractions something with LiPT is ahead of everything without it."""
    sentences = []
    for name, results in asked("search"):
        found = runs_of(results)
        parts = []
        for fraction in sorted({fraction for _, fraction in found}):
            here = {
                method: runs
                for part in range(len(results["parts"]))
                for (method, f), runs in runs_of(results, part).items() if f == fraction
            }  # fmt: skip
            mine = max((r for m, r in here.items() if m.startswith("lipt")), key=mean)
            rival = max((r for m, r in here.items() if not m.startswith("lipt")), key=mean)
            parts.append(
                f"{100 * fraction:g} %: {mine[0]['label']} {compared(mine, rival)} points from "
                f"{rival[0]['label']}"
            )
        sentences.append(
            f"{name}, the best with LiPT against the best without. {'; '.join(parts)}."
        )
    return " ".join(sentences) + "\n"


def importance() -> str:
    """Importance sampling every epoch, after LiPT, after one worker, and from the first step."""
    return costs_of("importance")


def importance_reading() -> str:
    """Whether importance sampling needs LiPT."""
    sentences = []
    for name, results in asked("importance"):
        runs = by_method(results)
        after = {
            warm: runs[f"{warm}+importance/every=1"] for warm in ("lipt", "one-worker", "none")
        }
        fewer = mean(after["lipt"], "passes") / mean(after["one-worker"], "passes")
        sentences.append(
            f"{name}: importance sampling after LiPT is "
            f"{compared(after['lipt'], runs['lipt+rs2'])} points from RS2 after LiPT, and "
            f"{compared(after['lipt'], after['one-worker'])} from itself after one worker, which "
            f"makes {fewer:.1f} times fewer passes in all. With no warm-up it is "
            f"{compared(after['none'], runs['rs2'])} from RS2."
        )
    return " ".join(sentences) + "\n"


def reselected() -> str:
    """GLISTER, GradMatch and CRAIG re-selected, after LiPT and after full epochs."""
    text = ""
    for name, results in asked("warm-up"):
        rows, runs = [], by_method(results)
        for kind in ("glister", "gradmatch", "craig", "random", "rs2"):
            plain = kind in ("random", "rs2")
            rival, mine = runs[kind if plain else f"full=8+{kind}"], runs[f"lipt+{kind}"]
            costs = [mean(some, "warmup_critical_passes") for some in (rival, mine)]
            rows.append(
                [
                    rival[0]["label"].partition(" ")[0] + (" (no warm-up)" if plain else ""),
                    spread(accuracies(rival)),
                    spread(accuracies(mine)),
                    compared(mine, rival),
                    f"{costs[0]:,.0f}",
                    f"{costs[1]:,.0f}",
                ]
            )
        head = (
            "Selector", "After 8 full epochs, %", "After LiPT, %", "Difference, points",
            "Critical path, full", "LiPT",
        )  # fmt: skip
        text += heading(name, results) + markdown(head, rows) + origin(results) + "\n"
    return text


SEARCHES = (search, search_reading, importance, importance_reading, reselected)
