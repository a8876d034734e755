"""Two nested mappings compared in words."""

from __future__ import annotations

import pytest

from lipt_cords.base.differences import differences, first_difference


@pytest.mark.parametrize(
    ("here", "there", "found"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": None}, {}, []),
        ({"a": 1}, {"b": 2}, ["a is None there and 1 here", "b is 2 there and None here"]),
        ({"b": 1, "a": "x"}, {"b": 2, "a": "y"}, ["a is 'y' there and 'x' here", "b is 2"]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ["a.b.c is 2 there and 1 here"]),
        ({"a": {"b": 1}}, {"a": 3}, ["a is 3 there and {'b': 1} here"]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ["a is [1, {'b': 3}] there and"]),
        ({1: "x"}, {"1": "x"}, ["1 is", "1 is"]),
    ],
)
def test_every_difference_in_order(here: dict, there: dict, found: list[str]) -> None:
    lines = list(differences(here, there))
    assert len(lines) == len(found)
    assert all(line.startswith(start) for line, start in zip(lines, found, strict=True))
    assert first_difference(here, there) == (lines[0] if lines else None)


def test_ignored_keys_and_a_path() -> None:
    here = {"data": {"datadir": "a", "limit": 1}, "datadir": 1}
    there = {"data": {"datadir": "b", "limit": 2}, "datadir": 2}
    said = first_difference(here, there, ignore=("datadir",), path="config")
    assert said == "config.data.limit is 2 there and 1 here"
    assert first_difference(here, there, ignore=("data", "datadir")) is None
