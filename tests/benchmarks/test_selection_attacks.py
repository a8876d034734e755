"""A slice of the attacks on selectors, and attacks that must be noticed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import RESULTS
from benchmarks import selection_attacks as attacks
from lipt_cords.base.files import read_json
from lipt_cords.selectors import selector_names


@settings(max_examples=120)
@given(seed=st.integers(2000, 10**6))
def test_every_answer_is_that_of_brute_force_or_an_error_with_the_rows(seed: int) -> None:
    assert attacks.check(attacks.problem_of(seed)) in ("right", "refused")


def test_committed_results_found_nothing() -> None:
    found = read_json(RESULTS / "selection_attacks.json")
    assert found["problems"] >= 2000 and found["wrong"] == 0
    assert set(found["selectors"]) == set(selector_names())
    counts = [sum(counts.values()) for counts in found["selectors"].values()]
    assert sum(counts) == found["problems"] and min(counts) > 100


NAMES = ("craig", "glister", "gradmatch", "grand", "importance", "stratified")


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_answer_would_be_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is not what any choice would pass."""
    real, noticed = attacks.select, 0

    def other_than(*args: Any, **kwargs: Any) -> Any:
        chosen = real(*args, **kwargs)
        shifted = (chosen.indices + 1) % len(args[1])
        info = chosen.info
        return replace(chosen, indices=shifted, info=info)

    problems = [p for p in map(attacks.problem_of, range(900)) if p.name == name and not p.refused]
    mine = [p for p in problems if p.arguments["per"] == "all" and 1 < p.budget < len(p.plain)]
    plain = [p for p in mine if float(p.dense.abs().max()) > 1e-3][:6]
    monkeypatch.setattr(attacks, "select", other_than)
    noticed = sum(attacks.check(problem).startswith("wrong") for problem in plain)
    assert noticed > 0 and len(plain) >= 4
    assert torch.is_tensor(plain[0].dense)
