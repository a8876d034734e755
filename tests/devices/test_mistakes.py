"""Every device mistake that the benchmark puts into the source still has its place there."""

from __future__ import annotations

from collections import Counter

from benchmarks.device_mistakes import MISTAKES, misplaced


def test_every_mistake_has_its_place() -> None:
    assert [text for one in MISTAKES if (text := misplaced(one))] == []
    assert len(MISTAKES) >= 40 and len(Counter(one.kind for one in MISTAKES)) >= 8
