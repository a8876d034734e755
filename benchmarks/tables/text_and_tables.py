"""The table of benchmarks/text_and_tables.py."""

from __future__ import annotations

from benchmarks.tables.fixed import signed
from benchmarks.tables.parts import load, markdown, origin, spread


def text_and_tables() -> str:
    """Subsets of tables and texts, chosen without training, against random ones."""
    results = load("text_and_tables")
    rows = []
    for case in results["summary"]:
        mine = [
            row
            for row in results["rows"]
            if (row["set"], row["fraction"]) == (case["set"], case["fraction"])
        ]
        rows.append(
            [
                f"{case['set']}, {len(results['samples_of_each_class'][case['set']])} classes",
                f"{mine[0]['budget']:,} of {mine[0]['pool']:,}",
                f"{len(mine)}",
                spread([row["random"] for row in mine]),
                spread([row["chosen"] for row in mine]),
                signed([row["chosen"] - row["random"] for row in mine]),
            ]
        )
    head = (
        "Set", "Samples", "Seeds", "Random, %", "Chosen, %", "Difference, points",
    )  # fmt: skip
    cases = len(results["summary"])
    ahead, behind = (sum(case[way] for case in results["summary"]) for way in ("ahead", "behind"))
    told = (
        f"\nAhead by more than one deviation in {ahead} of {cases} rows, behind by more than "
        f"one in {behind}.\n"
    )
    return markdown(head, rows) + told + origin(results)


TEXT_AND_TABLES = (text_and_tables,)
