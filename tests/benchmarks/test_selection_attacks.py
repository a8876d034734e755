"""A slice of the attacks on selectors, and attacks that must be noticed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import RESULTS
from benchmarks import selection_attacks as attacks
from lipt_cords.base.files import read_json


@settings(max_examples=120)
@given(seed=st.integers(2000, 10**6))
def test_every_answer_is_that_of_brute_force_or_an_error_with_the_rows(seed: int) -> None:
    assert attacks.check(attacks.problem_of(seed)) in ("right", "refused")


def test_committed_results_found_nothing() -> None:
    found = read_json(RESULTS / "selection_attacks.json")
    assert found["problems"] >= 2000 and found["wrong"] == 0
    assert set(found["selectors"]) == set(attacks.OURS)
    counts = [sum(counts.values()) for counts in found["selectors"].values()]
    assert sum(counts) == found["problems"] and min(counts) > 100


@pytest.mark.parametrize(
    "name", ["covering", "craig", "glister", "gradmatch", "grand", "importance", "stratified"]
)
def test_a_wrong_answer_would_be_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is not what any choice would pass."""
    real = attacks.select

    def its_neighbours(*args: Any, **kwargs: Any) -> Any:
        chosen = real(*args, **kwargs)
        return replace(chosen, indices=(chosen.indices + 1) % len(args[1]))

    monkeypatch.setattr(attacks, "select", its_neighbours)
    answers = [
        attacks.check(problem) for problem in map(attacks.problem_of, range(1500))
        if problem.name == name and not problem.refused and not {*problem.traits} & {"all zero"}
        and problem.arguments["per"] == "all" and 1 < problem.budget < len(problem.plain) - 1
    ]  # fmt: skip
    assert sum(answer.startswith("wrong objective") for answer in answers) >= 2, answers
