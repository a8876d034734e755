"""Lines on a terminal, as they are: no markup, and nothing that steers the terminal."""

from __future__ import annotations

from rich.console import Console

from lipt_cords.base.printable import printable


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is, but for what would steer the terminal.

    The terminal wraps it, so that a path in it can be copied.
    """
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def say_error(text: str) -> None:
    """One red line."""
    say(Console(stderr=True), f"lipt-cords: {text}", style="red")
