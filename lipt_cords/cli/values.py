"""Values of the command line that are more than one word, read with errors that show the form."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.sizes import parse_bytes, parse_share

if TYPE_CHECKING:
    from lipt_cords.experiments.contest import Equal
    from lipt_cords.training.memory.plan import Policy


def words(text: str) -> list[str]:
    """The parts of a list with commas.

    >>> words("random, lipt")
    ['random', 'lipt']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_seeds(text: str) -> list[int]:
    """How many seeds, or which.

    >>> parse_seeds("3"), parse_seeds("0,5")
    ([0, 1, 2], [0, 5])

    Raises:
        ValueError: anything else.
    """
    try:
        numbers = [int(part) for part in words(text)]
    except ValueError:
        numbers = [-1]
    if not numbers or min(numbers) < 0 or (len(numbers) == 1 and numbers[0] < 1):
        raise ValueError(f"--seeds takes a number of seeds or a list like 0,1,5, received {text!r}")
    return numbers if "," in text else list(range(numbers[0]))


def parse_fractions(text: str) -> list[float]:
    """Shares of the pool.

    >>> parse_fractions("0.01,0.1"), parse_fractions("5%")
    ([0.01, 0.1], [0.05])

    Raises:
        ValueError: not shares.
    """
    if not words(text):
        raise ValueError(f"--fractions takes a list like 0.01,0.1 or 1%,10%, received {text!r}")
    return [parse_fraction(part, "--fractions") for part in words(text)]


def parse_fraction(text: str, option: str = "--fraction") -> float:
    """One share of the pool.

    Raises:
        ValueError: not a share; the option is named.
    """
    try:
        return parse_share(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def parse_equal(text: str | None) -> Equal | None:
    """What is to be equal, if anything.

    Raises:
        ValueError: an unknown measure.
    """
    from lipt_cords.experiments.contest import Equal

    if text is None:
        return None
    for known in get_args(Equal):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise unknown_name("--equal", text, get_args(Equal))


def parse_bandwidth(text: str | None) -> float | None:
    """Bytes a second, if any are given.

    >>> parse_bandwidth("12GB"), parse_bandwidth("12 GB/s")
    (12000000000.0, 12000000000.0)

    Raises:
        ValueError: no size.
    """
    if text is None:
        return None
    return float(parse_bytes(text.strip().removesuffix("/s"), "--bandwidth, a second"))


def parse_policy(text: str) -> Policy:
    """What a memory plan may do.

    Raises:
        ValueError: an unknown policy.
    """
    from lipt_cords.training.memory.plan import Policy

    for known in get_args(Policy):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise unknown_name("--policy", text, get_args(Policy))
