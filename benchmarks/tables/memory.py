"""What a step within a memory budget costs, beside the usual ways."""

from __future__ import annotations

from benchmarks.tables.parts import load, markdown, origin

SHOWN = {
    "planned, checkpointing's peak": "planned",
    "planned, least": "planned, least memory",
    "checkpoint every block": "recompute every block (checkpointing)",
    "save_on_cpu": "swap everything (`save_on_cpu`)",
}
"""What the page calls a way."""
NETS = ("ResNet-50", "Transformer")
"""One with BatchNorm and one without."""


def memory() -> str:
    """Time and memory of planned steps and of their rivals, plain steps being 1."""
    results = load("memory-overhead")
    rows = [
        [
            f"{row['net']}, {SHOWN[way['way']]}",
            f"{way['time']:.2f}",
            f"{(way['peak'] - row['base']) / row['added']:.2f}",
            ", ".join(way["differs"]) or "nothing",
        ]
        for row in results["rows"]
        if row["net"] in NETS
        for way in row["ways"]
        if way["way"] in SHOWN
    ]
    head = ("Way, plain = 1", "Time", "Memory that a step adds", "Differs from plain training in")
    return markdown(head, rows) + origin(results)


MEMORY = (memory,)
