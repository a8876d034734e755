"""Where two nested mappings differ, in words: a stored run and the requested one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def differences(
    here: Mapping[str, Any],
    there: Mapping[str, Any],
    *,
    ignore: Collection[str] = (),
    path: str = "",
) -> Iterator[str]:
    """All differences of two nested mappings, in the order of their keys.

    A key that is missing counts as None.

    Args:
        here: the requested values.
        there: the values that were found.
        ignore: keys that are not compared, at any depth.
        path: of both mappings; every line begins with it.

    >>> list(differences({"a": {"b": 2}, "c": 1}, {"a": {"b": 1}}))
    ['a.b is 1 there and 2 here', 'c is None there and 1 here']
    """
    for key in sorted({*here, *there} - set(ignore), key=str):
        mine, other = here.get(key), there.get(key)
        where = f"{path}.{key}" if path else str(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            yield from differences(mine, other, ignore=ignore, path=where)
        elif mine != other:
            yield f"{where} is {other!r} there and {mine!r} here"


def first_difference(
    here: Mapping[str, Any],
    there: Mapping[str, Any],
    *,
    ignore: Collection[str] = (),
    path: str = "",
) -> str | None:
    """The first of :func:`differences`; None if there is none.

    >>> first_difference({"seed": 1}, {"seed": 0})
    'seed is 0 there and 1 here'
    """
    return next(differences(here, there, ignore=ignore, path=path), None)
