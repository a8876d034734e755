"""Write the tables of README and docs from the committed results, or check that they still agree.

    python benchmarks/tables/write.py           rewrite every table between its markers
    python benchmarks/tables/write.py --check   exit 1 and name a page that differs from its JSON

A page marks a table with ``<!-- table: NAME -->`` and ``<!-- end of table -->``; NAME is a function
of this file or of another one of this folder.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.tables.cheaper import CHEAPER
from benchmarks.tables.choose import CHOOSING
from benchmarks.tables.choosing_cost import CHOOSING_COST
from benchmarks.tables.distributed import DISTRIBUTED
from benchmarks.tables.field import field
from benchmarks.tables.headline import headline
from benchmarks.tables.label_issues import LABEL_ISSUES
from benchmarks.tables.long_tail import LONG_TAIL
from benchmarks.tables.memory import MEMORY
from benchmarks.tables.muon import MUON
from benchmarks.tables.paper import PAPER
from benchmarks.tables.parts import load, markdown, origin
from benchmarks.tables.preset import PRESET
from benchmarks.tables.pretrained import PRETRAINED
from benchmarks.tables.question import QUESTIONS
from benchmarks.tables.reliability import RELIABILITY
from benchmarks.tables.rivals import RIVALS
from benchmarks.tables.text_and_tables import TEXT_AND_TABLES
from benchmarks.tables.unlearning import UNLEARNING
from benchmarks.tables.wrong_labels import WRONG_LABELS

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def selection() -> str:
    """Selectors against CORDS."""
    results = load("selection")
    rows = [
        [
            f"{row['selector']}, per {row['per']}, E={row['embedding_dim']}, N={row['samples']:,}",
            f"{row['cords_seconds']:.3f}",
            f"{row['seconds']:.3f}",
            f"{row['ratio']:.1f}x",
        ]
        for row in results["table"]
        if row["samples"] >= 2_000
    ]
    head = ("Case, 10 classes, 10 % budget", "CORDS, s", "Here, s", "Faster")
    return markdown(head, rows) + origin(results)


def selection_imagenet() -> str:
    """Selection on factors of ImageNet's shape."""
    results = load("selection-imagenet")
    rows = [
        [
            row["selector"],
            f"{row['samples']:,}",
            f"{row['seconds']:.1f}",
            f"{row['extrapolated_seconds']:.0f}",
            f"{row['anonymous_peak_bytes'] / 2**30:.1f}",
        ]
        for row in results["rows"]
    ]
    head = ("Selector, per class", "Samples", "Seconds", "Seconds at 1,281,167", "Memory, GiB")
    return markdown(head, rows) + origin(results)


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        selection, selection_imagenet, *CHOOSING, *CHOOSING_COST, *LABEL_ISSUES,
        *WRONG_LABELS, *RIVALS, *LONG_TAIL, *TEXT_AND_TABLES, *PRETRAINED, *QUESTIONS, *PRESET,
        *MUON, *PAPER, *DISTRIBUTED, *RELIABILITY, *CHEAPER, *MEMORY, *UNLEARNING, field, headline,
    )
}  # fmt: skip


def filled(text: str) -> str:
    """A page with every marked table written anew."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(2)
        if name not in TABLES:
            raise ValueError(f"unknown table {name!r}: expected one of {sorted(TABLES)}")
        return match.group(1) + TABLES[name]() + match.group(3)

    return MARKED.sub(replace, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check = parser.parse_args().check
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = page.read_text()
        after = filled(before)
        if before != after:
            stale.append(page.name)
            if not check:
                page.write_text(after)
    if stale:
        print(("differs from its JSON: " if check else "rewritten: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
