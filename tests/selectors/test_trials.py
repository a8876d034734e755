"""Which cut is taken for what its subset is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipt_cords.selectors.trials import Trial, as_trial, chosen_cut, mean_trial

WORTHS = {0.0: 0.50, 0.3: 0.80, 0.5: 0.79, 0.7: 0.77}


def trials(error: float) -> dict[float, Trial]:
    return {cut: Trial(worth, 10.0, error) for cut, worth in WORTHS.items()}


@pytest.mark.parametrize(
    ("error", "smallest", "largest"),
    [(0.0, 0.3, 0.3), (0.015, 0.3, 0.5), (0.035, 0.3, 0.7), (0.4, 0.0, 0.7)],
)
def test_of_equals_up_to_the_error_one_end_is_taken(error, smallest, largest) -> None:
    assert chosen_cut(trials(error))[0] == smallest
    found, info = chosen_cut(trials(error), largest=True)
    assert found == largest and info["pilot_error"] == error
    assert info["pilot"]["0.3"] == 0.80 and info["pilot_passes"] == 40


@given(
    worths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    error=st.sampled_from([0, 1, 4]), largest=st.booleans(),
)  # fmt: skip
def test_nothing_that_is_taken_is_worse_than_the_error(worths, error, largest) -> None:
    given_ = {place / 10: Trial(worth, 0, error) for place, worth in enumerate(worths)}
    found, _ = chosen_cut(given_, largest=largest)
    assert given_[found].worth >= max(worths) - error
    beyond = [cut for cut in given_ if (cut > found if largest else cut < found)]
    assert all(given_[cut].worth < max(worths) - error for cut in beyond)


def test_several_draws_are_one_trial() -> None:
    assert mean_trial([Trial(0.5, 3, 0.1), Trial(1.0, 5, 0.3)]) == (0.75, 8, 0.2)
    assert mean_trial([Trial(0.7, 2, 0.1)]) == (0.7, 2, 0.1)


@pytest.mark.parametrize(
    "answer", [float("nan"), (0.5, 1.0, -0.1), (float("inf"), 1.0), (1.0, 2.0, 3.0, 4.0), "high"]
)
def test_what_is_no_worth_is_named(answer) -> None:
    with pytest.raises(ValueError, match="expected of a pilot a finite worth, or"):
        as_trial(answer)
