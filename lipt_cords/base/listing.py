"""The first few of many names, for a line that is to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NAMED = 5
"""Names that a line has, if nothing else is said."""


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """The first few of some names.

    >>> listed(["a", "b"]), listed(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reasons(unreadable: Mapping[str, str], most: int = NAMED) -> str:
    """The first few of some files, rows or columns with why they are left out.

    >>> reasons({"a.jpg": "truncated"})
    'a.jpg (truncated)'
    """
    return listed([f"{name} ({why})" for name, why in unreadable.items()], most)
