"""Scores of training dynamics against naive ones, and the errors around them."""

from __future__ import annotations

import itertools
import re
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import pool

from lipt_cords.base.messages import decode, encode
from lipt_cords.selectors import TrainingDynamics, register_dynamics_score, select
from lipt_cords.selectors.dynamics import DYNAMICS_SCORES

MARGIN = st.floats(-8, 8, width=32)


def log_of(rows: list[list[float]]) -> TrainingDynamics:
    """A log with these margins; the probabilities are those of two classes."""
    most = max(map(len, rows))
    margins = torch.tensor([[*row, *[float("nan")] * (most - len(row))] for row in rows])
    counts = torch.tensor([len(row) for row in rows])
    return TrainingDynamics(margins.sigmoid(), margins, counts)


def naive(name: str, margins: list[float], most: int, window: int = 10) -> float:
    """One sample's score, as its paper says it."""
    chances = [float(torch.tensor(margin).sigmoid()) for margin in margins]
    if name == "confidence":
        return 1 - statistics.fmean(chances)
    if name == "variability":
        return statistics.pstdev(chances)
    if name == "aum":
        return -statistics.fmean(margins)
    if name == "dual":
        width = min(window, len(chances))
        parts = [chances[k : k + width] for k in range(len(chances) - width + 1)]
        return statistics.fmean(
            statistics.stdev(part) * (1 - statistics.fmean(part)) for part in parts
        )
    right = [margin > 0 for margin in margins]
    if not any(right):
        return most
    return sum(now and not then for now, then in itertools.pairwise(right))


@given(st.lists(st.lists(MARGIN, min_size=2, max_size=13), min_size=1, max_size=6))
def test_scores_are_what_their_papers_say(rows: list[list[float]]) -> None:
    log, most = log_of(rows), max(map(len, rows))
    for name in ("confidence", "variability", "dual", "aum", "forgetting"):
        expected = torch.tensor([naive(name, row, most) for row in rows], dtype=torch.float64)
        found = log.score(name)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    windowed = [naive("dual", row, most, window=3) for row in rows]
    torch.testing.assert_close(
        log.score("dual", window=3), torch.tensor(windowed).double(), rtol=1e-6, atol=1e-6
    )


@given(st.lists(st.lists(MARGIN, min_size=2, max_size=5), min_size=2, max_size=5))
def test_a_samples_score_depends_on_no_other_sample(rows: list[list[float]]) -> None:
    log = log_of(rows)
    for name in ("confidence", "variability", "dual", "aum"):
        alone = torch.cat([log_of([row]).score(name) for row in rows])
        torch.testing.assert_close(log.score(name), alone, rtol=1e-12, atol=1e-12)


def test_a_tie_is_wrong_and_never_right_is_hardest() -> None:
    log = log_of([[1.0, 0.0, 1.0, -1.0], [-1.0, 0.0, -2.0, -1.0], [1.0, 2.0, 1.0]])
    assert log.score("forgetting").tolist() == [2.0, 4.0, 0.0]
    assert log.right.tolist()[0] == [True, False, True, False]
    assert log.visited.sum(dim=1).tolist() == [4, 4, 3]


def test_the_log_costs_no_pass_and_says_its_bytes() -> None:
    log = log_of([[1.0, 2.0, 3.0]] * 5)
    assert log.passes == 0
    assert log.nbytes == 8 * 5 * 3 + 8 * 5
    there = decode(encode(log))
    assert all(getattr(there, name).equal(value) for name, value in vars(log).items())


def test_scores_go_into_a_selector() -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).tolist()
    scores = log_of(rows).score("aum")
    chosen = select("stratified", pool(30), 6, scores=scores, cut=0.5, per="all")
    assert scores[chosen.indices].max() <= scores.sort().values[14]


def test_samples_with_too_few_visits_are_named() -> None:
    log = log_of([[1.0, 2.0], [], [1.0], []])
    assert log.unseen.tolist() == [1, 3]
    with pytest.raises(ValueError, match=r"'aum' needs 1 visit\(s\).*2 of 4 have fewer: 1, 3\. "):
        log.score("aum")
    with pytest.raises(ValueError, match=r"needs 2 visit\(s\).*3 of 4 have fewer: 1, 2, 3\. "):
        log.score("dual")
    assert log.of([2, 0]).score("aum").tolist() == [-1.0, -1.5]
    for wrong, said in (([4], "4 to 4"), ([-1, 0], "-1 to 0"), ([], "none")):
        with pytest.raises(ValueError, match=rf"in \[0, 4\), received {said}"):
            log.of(wrong)


def test_wrong_names_and_options_are_refused() -> None:
    log = log_of([[1.0, 2.0]])
    with pytest.raises(ValueError, match="unknown dynamics score 'auc'.*'aum'"):
        log.score("auc")
    with pytest.raises(ValueError, match=r"unknown option of dynamics score 'dual' 'windw'.*win"):
        log.score("dual", windw=3)
    for wrong in (1, 2.5, True):
        with pytest.raises(ValueError, match=re.escape(f"from 2 on, received {wrong!r}")):
            log.score("dual", window=wrong)
    infinite = log_of([[1.0, float("inf")]])
    with pytest.raises(ValueError, match=r"finite dynamics score 'aum'.*1 row\(s\): 0"):
        infinite.score("aum")


def test_a_score_of_ones_own() -> None:
    try:

        @register_dynamics_score("late", visits=3)
        def late(dynamics: TrainingDynamics, *, last: int = 1) -> torch.Tensor:
            """Minus the mean of the last margins."""
            return -dynamics.margins[:, -last:].mean(dim=1)

        log = log_of([[1.0, 2.0, 3.0]])
        assert log.score("late").tolist() == [-3.0]
        assert log.score("late", last=2).tolist() == [-2.5]
        with pytest.raises(ValueError, match=r"'late' needs 3 visit\(s\)"):
            log_of([[1.0, 2.0]]).score("late")
        register_dynamics_score("short")(lambda dynamics: torch.zeros(7))
        with pytest.raises(ValueError, match=r"'short' of shape \(1,\).*received \(7,\)"):
            log.score("short")
        with pytest.raises(ValueError, match="dynamics score named 'aum' exists already"):
            register_dynamics_score("aum")(late)
    finally:
        for name in ("late", "short"):
            DYNAMICS_SCORES.unregister(name)
