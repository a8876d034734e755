"""The table of benchmarks/long_tail.py."""

from __future__ import annotations

from benchmarks.tables.parts import markdown, origin_of, results_of, spread


def long_tail() -> str:
    """Accuracy on balanced classes after training on subsets of a long tail."""
    text = ""
    for name, results in results_of("long_tail"):
        rows = []
        for ratio in dict.fromkeys(row["ratio"] for row in results["rows"]):
            mine = [row for row in results["rows"] if row["ratio"] == ratio]
            methods = dict.fromkeys(row["method"] for row in mine)
            cells = [
                spread([row["accuracy"] for row in mine if row["method"] == method])
                for method in methods
            ]
            rows.append([f"1:{ratio}", f"{mine[0]['budget']} of {mine[0]['pool']:,}", *cells])
        head = ("Tail", "Images", "Random, %", "`choose_subset`, %", "with `balanced=True`, %")
        seeds = len({row["seed"] for row in results["rows"]})
        text += f"{name}, {seeds} seeds.\n\n" + markdown(head, rows) + "\n"
    return text + origin_of(results_of("long_tail"))


LONG_TAIL = (long_tail,)
