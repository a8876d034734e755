"""Text of others as a terminal and a page may show it: without what steers them."""

from __future__ import annotations

import re

# Control characters but tab and line ends, those that turn the direction of writing, and halves of
# pairs and other code points that no UTF-8 and no XML may hold.
_STEERING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""Text without control characters; each becomes the sign for an unknown one.

    Line ends and tabs stay.

    >>> printable("a\x1b[2Jb")
    'a�[2Jb'
    """
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    r"""Printable text on one line.

    >>> one_line("a\r\nb")
    'a b'
    """
    return " ".join(printable(text).split())
