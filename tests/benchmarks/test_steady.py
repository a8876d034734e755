"""What counts as flat in the benchmark of what a process keeps."""

from __future__ import annotations

import pytest

from benchmarks.faults.steady import MOST_BYTES, judged

HELD = {"descriptors": 12, "threads": 1, "native_threads": 3, "children": 2}


def points(memory, **more):
    """Thirty measurements, the last ten of them with more of something."""
    found = []
    for number in range(1, 31):
        here = {name: HELD[name] + (more.get(name, 0) if number > 20 else 0) for name in HELD}
        found.append({"calls": 10 * number, "memory_bytes": int(memory(number)), **here})
    return found


def test_what_stays_or_only_fills_at_the_beginning_is_flat():
    assert judged(points(lambda n: 4e8))["flat"]
    assert judged(points(lambda n: 4e8 + 1e6 * min(n, 9)))["flat"]


@pytest.mark.parametrize("more", HELD)
def test_more_of_anything_is_not_flat(more):
    found = judged(points(lambda n: 4e8, **{more: 1}))
    assert not found["flat"] and found["more"][more] == 1


def test_memory_that_grows_is_not_flat():
    found = judged(points(lambda n: 4e8 + 10 * n * 2 * MOST_BYTES))
    assert not found["flat"]
    assert found["memory_growth_bytes_per_call"] == pytest.approx(2 * MOST_BYTES)
