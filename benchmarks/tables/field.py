"""Table of benchmarks/field.py: fixed subsets by every published way."""

from __future__ import annotations

from benchmarks.tables.fixed import of
from benchmarks.tables.parts import RESULTS, load, markdown, origin, spread


def field() -> str:
    """Methods by fraction, and what their scores cost."""
    text = ""
    for path in sorted(RESULTS.glob("field-*.json")):
        results = load(path.stem)
        settings, rows = results["settings"], results["rows"]
        fractions = sorted({row["fraction"] for row in rows})
        methods = list(dict.fromkeys(row["method"] for row in rows))
        table = []
        for method in methods:
            mine = [row for row in rows if row["method"] == method]
            cells = [[row["accuracy"] for row in of(results, one, method)] for one in fractions]
            table.append(
                [
                    f"`{method}`" if method == "choose_subset" else method,
                    f"{mine[0]['scoring_passes'] / settings['pool']:.1f}",
                    *(spread(cell) if cell else "-" for cell in cells),
                ]
            )
        shown = [f"{100 * one:.0f} %" for one in fractions]
        head = ("Method", "Scoring, epochs of the pool", *shown)
        alike = {
            "iterations": "equally long",
            "epochs": "200 epochs of every subset",
        }[settings["match"]]
        text += (
            f"{results['data']}, {settings['net']}, a pool of {settings['pool']:,}, batches of "
            f"{settings['batch']}, {len({row['seed'] for row in rows})} seeds; trained {alike}.\n\n"
            + markdown(head, table) + origin(results) + "\n"
        )  # fmt: skip
    return text
