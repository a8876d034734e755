"""README and docs stay short enough to be read."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_WORDS = 12_000
"""Tables and code included. What has no letter and no digit, such as a table's bar, is no word."""


def test_readme_and_docs_are_short() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    words = {page.name: len(re.findall(r"\S*\w\S*", page.read_text())) for page in pages}
    longest = sorted(words, key=lambda name: -words[name])[:5]
    assert sum(words.values()) <= MOST_WORDS, (
        f"{sum(words.values()):,} words: say less, or say it in a docstring that a page links; "
        f"the longest are {', '.join(f'{name} ({words[name]:,})' for name in longest)}"
    )
