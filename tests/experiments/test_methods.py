"""The contenders' names."""

from __future__ import annotations

import pytest

from lipt_cords.experiments.methods import DEFAULT_METHODS, Method, parse_methods


def test_names_in_words() -> None:
    labels = [Method.parse(name).label("CRAIG") for name in DEFAULT_METHODS]
    assert labels == [
        "random", "RS2", "CRAIG after full data", "CRAIG after LiPT", "CRAIG after one worker",
        "RS2, equal waiting", "RS2, equal passes", "all data, equal passes",
    ]  # fmt: skip
    for name, words in {
        "lipt+random": "random after LiPT",
        "full-data": "all data",
        "none+stratified": "Stratified",
        "lipt-rounds+gradmatch/every=5": "GradMatch, every 5 epochs, after LiPT in rounds",
        "full=3/scratch": "CRAIG after full data (3 epochs), from scratch",
        "full=1": "CRAIG after full data (1 epoch)",
        "one-worker-annealed+random": "random after one worker, annealed",
    }.items():
        assert Method.parse(name).label("CRAIG") == words
    assert Method.parse("none+selector").warmup == "none"


@pytest.mark.parametrize(
    "name",
    [
        "lpt", "lipt+glistr", "", "lipt@all", "rs2@", "full=0", "full=x", "lipt=3", "lipt/sratch",
        "lipt/every=0", "none+craig/scratch", "lipt+", "+random", "lipt/", "lipt+craig+craig",
    ],
)  # fmt: skip
def test_a_wrong_name_is_refused_and_the_form_is_shown(name: str) -> None:
    with pytest.raises(ValueError, match="unknown method .* WARMUP.SELECTION"):
        Method.parse(name)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(ValueError, match="Did you mean 'lipt\\+glister'"):
        Method.parse("lipt+glistr")


def test_no_method_and_the_same_twice() -> None:
    with pytest.raises(ValueError, match="at least one method"):
        parse_methods([])
    with pytest.raises(ValueError, match="named twice: rs2"):
        parse_methods(["rs2", "lipt", "rs2"])
