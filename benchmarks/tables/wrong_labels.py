"""The table of benchmarks/wrong_labels.py."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.parts import markdown, origin_of, results_of, spread


def trained_with_wrong_labels() -> list[tuple[str, dict[str, Any]]]:
    """The committed results, set by set."""
    return results_of("wrong_labels")


def wrong_labels() -> str:
    """Accuracy after training on subsets of a pool with wrong labels."""
    text = ""
    for name, results in trained_with_wrong_labels():
        every = {(row["kind"], row["share"]) for row in results["rows"]}
        draws = sorted(every, key=lambda one: (one[0] == "pair", one[1]))
        rows = []
        for method in dict.fromkeys(row["method"] for row in results["rows"]):
            cells = [
                [
                    row["accuracy"] for row in results["rows"]
                    if (row["method"], row["kind"], row["share"]) == (method, *draw)
                ]
                for draw in draws
            ]  # fmt: skip
            rows.append([method, *(spread(one) if one else "-" for one in cells)])
        head = (
            "Trained on",
            *(f"{100 * s:.0f} % wrong, {k}" if s else "none wrong" for k, s in draws),
        )
        seeds = len({row["seed"] for row in results["rows"]})
        text += f"{name}, {seeds} seeds.\n\n" + markdown(head, rows) + "\n"
    return text + origin_of(trained_with_wrong_labels())


WRONG_LABELS = (wrong_labels,)
