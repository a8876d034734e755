"""What is said while a warm start runs: each line once, and steps in plain lines if asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lipt_cords.warmstart import progress
from lipt_cords.warmstart.progress import StepProgress, announce, each_line_once, plain_lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    yield now


def test_a_line_is_announced_once_inside_and_always_outside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with each_line_once():
        announce("four workers", None)
        with each_line_once():
            announce("four workers", None)
            announce("one worker", None)
        announce("four workers", None)
        announce("hidden", False)
    assert capsys.readouterr().err == "four workers\none worker\n"
    announce("four workers", None)
    assert capsys.readouterr().err == "four workers\n"


def test_steps_are_told_every_half_minute_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with plain_lines(), StepProgress(2000) as steps:
        steps.describe("workers 0, 1 in round 0")
        for clock[0] in (10.0, 29.9, 30.0, 31.0, 59.9, 60.0):
            steps.tick()
    assert capsys.readouterr().err == (
        "  warm start, workers 0, 1 in round 0: 3 of 2,000 steps\n"
        "  warm start, workers 0, 1 in round 0: 6 of 2,000 steps\n"
    )


@pytest.mark.parametrize(("plain", "shown"), [(False, None), (True, False)])
def test_nothing_is_told_in_a_program_of_the_user(
    plain: bool, shown: bool | None, capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    steps = StepProgress(10, shown)
    if plain:
        with plain_lines():
            steps = StepProgress(10, shown)
    clock[0] = 100.0
    steps.tick()
    assert capsys.readouterr().err == ""
