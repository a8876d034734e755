"""Sizes of memory: what is read, what is shown, and that what is shown can be given back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords.base.sizes import UNITS, parse_bytes, show_bytes

SIZES = st.one_of(
    st.integers(1, 2**44),
    st.tuples(st.integers(1, 2**20), st.sampled_from([2**10, 2**20, 2**24])).map(math.prod),
    st.tuples(st.integers(0, 44), st.integers(-2, 2)).map(lambda two: max(1, 2 ** two[0] + two[1])),
)


@settings(max_examples=500)
@given(size=SIZES)
def test_what_is_shown_is_read_as_no_less_and_hardly_more(size):
    read = parse_bytes(show_bytes(size))
    assert size <= read <= size * 1.011 + 1


@settings(max_examples=200)
@given(size=SIZES, other=SIZES)
def test_more_is_never_shown_as_less(size, other):
    less, more = sorted((size, other))
    assert parse_bytes(show_bytes(less)) <= parse_bytes(show_bytes(more))


@settings(max_examples=200)
@given(hundredths=st.integers(100, 10**7), unit=st.sampled_from(sorted(UNITS)))
def test_a_text_is_the_number_times_its_unit(hundredths, unit):
    whole, part = divmod(hundredths, 100)
    expected = hundredths * UNITS[unit] // 100
    for text in (f"{whole}.{part:02d}{unit}", f"  {whole}.{part:02d} {unit.upper()} "):
        assert abs(parse_bytes(text) - expected) <= 1 + expected * 1e-15  # a float's digits
    assert parse_bytes(f"{whole}{unit}") == whole * UNITS[unit]


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1, 1), (2048, 2048), (1536.0, 1536), ("1", 1), ("1.", 1), (".5KiB", 512), ("7b", 7),
        ("2GiB", 2**31), ("500 MB", 500_000_000), ("0.5tib", 2**39), ("1 kB", 1000),
        (10**15, 10**15), (2**60 + 1, 2**60 + 1),
    ],
)  # fmt: skip
def test_sizes_that_people_write(value, size):
    read = parse_bytes(value)
    assert read == size and type(read) is int


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, [], b"2GiB", "", "GiB", "2 GiB extra", "-1", "-2GiB", "+2GiB", "1e9",
        "2G", "2 gibs", "2,5GiB", "1.2.3", "inf", "nan", "٣GiB", 0, -5, 0.5, "0", "0.4",
        1536.9, math.inf, -math.inf, math.nan, "9" * 400 + "GiB",
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused_by_name_and_with_an_example(value):
    with pytest.raises(
        ValueError, match="expected bytes as a number, or a size such as '2GiB'"
    ) as e:
        parse_bytes(value, "room")
    assert str(e.value).startswith("room: ") and str(e.value).endswith(f"received {value!r}")


def test_a_whole_number_beyond_all_floats_is_refused():
    with pytest.raises(ValueError, match="memory_budget: expected bytes as a number"):
        parse_bytes(10**400)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (1, "1 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1025, "1.01 KiB"),
        (2**20 - 1, "1024.00 KiB"), (2**20, "1.00 MiB"), (2**30 + 1, "1.01 GiB"),
        (3 * 2**40, "3072.00 GiB"), (2048.5, "2.01 KiB"),
    ],
)  # fmt: skip
def test_sizes_are_shown_rounded_up(size, shown):
    assert show_bytes(size) == shown


@pytest.mark.parametrize(("size", "shown"), [(1.2, "2 B"), (1023.2, "1024 B")])
def test_parts_of_a_byte_are_rounded_up_too(size, shown):
    assert show_bytes(size) == shown
