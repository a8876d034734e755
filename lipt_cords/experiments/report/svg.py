"""Figures as SVG text whose colours are named: a page gives them their values, dark or light.

Text stays text, so that it can be read out, selected and scaled, and follows the page's font.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lipt_cords.base.errors import missing_extra

INK, MUTED, GRID, PAPER = "#1b1e23", "#5b626b", "#d9dce1", "#ffffff"
SERIES = (
    "#0b62a4", "#b8470b", "#0b7a5c", "#9c4a86", "#8a6100", "#8c1d40", "#5a5f66", "#16181c",
)  # fmt: skip
"""Blue, vermilion, green, purple, amber, maroon, grey, black: distinguished without colour vision
by lightness and dashes, and at least 4.5 : 1 on white."""
DARK_SERIES = (
    "#6cb2eb", "#f39a63", "#4ecb9f", "#dd9bcb", "#dcb14a", "#ef7f9f", "#b3b9c1", "#eceef1",
)  # fmt: skip
"""The same on a dark ground."""
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
"""Of the first eight series, the next eight, and so on."""
NAMED = {
    INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper",
    **{colour: f"s{number}" for number, colour in enumerate(SERIES)},
}  # fmt: skip
"""Colours in figures, and the CSS variables that stand for them on a page."""
_FONT = re.compile(r"font-family: [^;\"]+")
_HEAD = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_STYLE = re.compile(r"\s*<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_SIZE = re.compile(r' width="([\d.]+)pt" height="([\d.]+)pt"')
_TAG = re.compile(r"<[^>]+>")
_NUMBERS = re.compile(r"\d+\.\d{2,}")


def colour_of(number: int) -> tuple[str, Any]:
    """Colour and dashes of a series by its place."""
    return SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]


@contextmanager
def figure(
    width: float, height: float, *, left: float = 0.58, bottom: float = 0.5
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the page's style.

    Args:
        width: inches.
        height: inches.
        left: inches for the labels of the y axis.
        bottom: inches for those of the x axis.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report", "to draw figures") from None
    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "lipt-cords", "text.parse_math": False,
        "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": MUTED,
        "xtick.color": MUTED, "ytick.color": MUTED, "axes.labelsize": 9, "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5, "axes.titlesize": 9.5, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.7, "axes.linewidth": 0.8,
        "figure.facecolor": "none", "axes.facecolor": "none", "lines.linewidth": 1.6,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        # Fixed margins: a layout engine draws everything twice to find them.
        drawn = Figure(figsize=(width, height))
        drawn.subplots_adjust(left / width, bottom / height, 1 - 0.1 / width, 1 - 0.1 / height)
        yield drawn, drawn.subplots()


def svg_of(drawn: Any, name: str, description: str) -> str:
    """A figure as SVG for a page.

    Args:
        drawn: the figure, made by :func:`figure` and inside its context.
        name: its name on the page, which keeps its names apart from those of other figures.
        description: what it shows, for those who cannot see it.

    Returns:
        ``<svg>`` text without a size of its own; colours are ``var(--NAME)``.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None})
    text = _STYLE.sub("", _METADATA.sub("", _HEAD.sub("", buffer.getvalue())), count=1)
    text = _FONT.sub("font-family: inherit", text)
    # Inside tags alone: what the reader sees as text stays as it was drawn.
    text = _TAG.sub(lambda tag: _short_and_named(tag.group()), text)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    attributes = f' role="img" aria-label="{html.escape(description)}" class="figure"'
    return _SIZE.sub(lambda _: attributes, text, count=1).strip()


def _short_and_named(tag: str) -> str:
    """A tag with coordinates of two digits and colours by name."""
    tag = _NUMBERS.sub(lambda match: f"{float(match.group()):.2f}".rstrip("0").rstrip("."), tag)
    for colour, variable in NAMED.items():
        tag = tag.replace(colour, f"var(--{variable})")
    return tag


def as_file(svg: str) -> str:
    """A page's figure as a file of its own, in the colours of a light page."""
    for colour, variable in NAMED.items():
        svg = svg.replace(f"var(--{variable})", colour)
    style = f"<style>svg{{font-family:sans-serif;background:{PAPER};stroke-linejoin:round}}</style>"
    head, close, rest = svg.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}{close}{style}{rest}\n'


def spaced(value: float, _: Any = None) -> str:
    """A number on an axis.

    >>> spaced(12000), spaced(0.5), spaced(2500000)
    ('12k', '0.5', '2.5M')
    """
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}"


def log_axis(axis: Any) -> None:
    """A logarithmic x axis with a few plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axis.set_xscale("log")
    low, high = axis.get_xlim()
    subs = (1,) if high > 100 * low else (1, 3) if high > 20 * low else (1, 2, 5)
    axis.xaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.xaxis.set_major_formatter(spaced)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
