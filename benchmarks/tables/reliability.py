"""The tables of docs/reliability.md that are not about processes."""

from __future__ import annotations

from benchmarks.tables.parts import load, markdown, origin


def selection_attacks() -> str:
    """Random problems for every selector, against brute force."""
    results = load("selection_attacks")
    rows = [
        [name, str(found["right"]), str(found["refused"])]
        for name, found in results["selectors"].items()
    ]
    head = ("Selector", "As by brute force", "Refused with the reason")
    wrong = f"\nOf {results['problems']:,} problems {results['wrong']} ended otherwise.\n"
    return markdown(head, rows) + wrong + origin(results)


def device_mistakes() -> str:
    """Mistakes put in on purpose, by their kind."""
    results = load("device-mistakes")
    rows = []
    for kind, count in results["kinds"].items():
        caught = sum(row["caught"] for row in results["rows"] if row["kind"] == kind)
        rows.append([kind, str(count), str(caught)])
    return markdown(("Mistake", "Put in", "Caught"), rows) + origin(results)


RELIABILITY = (selection_attacks, device_mistakes)
