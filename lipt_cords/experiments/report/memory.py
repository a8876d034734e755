"""A planned training step as a picture: what the bytes in memory are for, operation by operation.

Drawn by hand, in the page's named colours, so that a plan can be looked at without matplotlib.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipt_cords.base.sizes import show_bytes
from lipt_cords.experiments.report.svg import GRID, INK, MUTED, NAMED, SERIES
from lipt_cords.training.memory.breakdown import BASE, SHARES, TEMPORARY, bytes_by_share
from lipt_cords.training.memory.plan import Plan
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 76, 48
"""Margins around the axes."""
MOST_COLUMNS = 400
"""Steps of a drawn outline; of more operations that share one the fullest is drawn."""
COLOURS = {
    BASE: SERIES[6], KEEP: SERIES[0], SWAP: SERIES[1], RECOMPUTE: SERIES[2], TEMPORARY: SERIES[3],
}  # fmt: skip
NAMES = {
    BASE: "weights, optimizer, inputs", KEEP: "kept", SWAP: "swapped", RECOMPUTE: "recomputed",
    TEMPORARY: "temporary, gradients",
}  # fmt: skip
OPACITY = 0.85
"""Of the areas, so that lines and labels stand out."""
LIMIT = SERIES[5]
"""The colour of the budget."""


def memory_timeline(plan: Plan) -> str:
    """Draw what a planned step has in memory during every operation.

    Bytes are stacked by what was decided about them; the outline above them is that of the plain
    step, the dashed line the budget. A thin line above the stack is what a recomputation takes
    just before the operation that wants its result.

    Args:
        plan: for a step of at least one operation.

    Returns:
        ``<svg>`` text, 900 by 420, without a size of its own; colours are ``var(--NAME)``, to
        which a page gives values, or :func:`~lipt_cords.experiments.report.svg.as_file`.

    Raises:
        ValueError: a step without operations.
    """
    if not plan.trace.ops:
        raise ValueError("the step has no operations, so there is nothing to draw: measure one")
    columns = _Columns.of(plan)
    highest = max(columns.plain.max(), columns.total.max(), columns.before.max())
    shown = plan.budget <= 1.25 * highest
    frame = _Frame(len(plan.trace.ops), 1.05 * max(highest, plan.budget if shown else 0))
    said = (
        f"{plan.trace.forward:,} operations forward, {len(plan.trace.ops) - plan.trace.forward:,} "
        f"backward. Peak: planned {show_bytes(plan.peak)}, plain {show_bytes(plan.trace.peak)}; "
        f"budget {show_bytes(plan.budget)}" + ("" if shown else ", out of sight")
    )
    parts = [
        _phases(frame, plan.trace.forward),
        *_grid(frame),
        *_stack(frame, columns),
        _outline(frame, columns),
        *([_budget(frame, plan)] if shown else []),
        *_axes(frame),
        *_legend(columns),
        _text(LEFT, 44, said, MUTED),
    ]
    label = html.escape(f"Bytes in memory during a planned training step. {said}.")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}" class="figure" font-size="12">\n' + "\n".join(parts) + "\n</svg>"
    )


@dataclass(frozen=True)
class _Columns:
    """What is drawn, from left to right; arrays of shape (columns,), edges of (columns + 1,)."""

    edges: NDArray[np.int64]
    shares: dict[str, NDArray[np.int64]]
    before: NDArray[np.int64]
    plain: NDArray[np.int64]

    @property
    def total(self) -> NDArray[np.int64]:
        """The height of the stack."""
        return np.asarray(sum(self.shares.values()))

    @classmethod
    def of(cls, plan: Plan) -> _Columns:
        """One column an operation, or the fullest of several that share one."""
        live, before, plain = plan.timeline.live, plan.timeline.before, plan.trace.live()
        count = len(live)
        edges = np.unique(np.linspace(0, count, min(count, MOST_COLUMNS) + 1).round())
        edges = edges.astype(np.int64)
        spans = list(pairwise(edges))
        most = np.maximum(live, before)
        picked = np.array([start + int(np.argmax(most[start:end])) for start, end in spans])
        shares = {share: some[picked] for share, some in bytes_by_share(plan).items()}
        outline = np.array([plain[start:end].max() for start, end in spans], dtype=np.int64)
        return cls(edges, shares, before[picked], outline)


@dataclass(frozen=True)
class _Frame:
    """From operations and bytes to the picture."""

    operations: int
    top: float

    def x(self, operation: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * operation / self.operations

    def y(self, size: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * size / self.top


def _stack(frame: _Frame, columns: _Columns) -> Iterator[str]:
    """The areas, the highest first: each next one covers its lower part, and leaves no seam."""
    height, areas = np.zeros(len(columns.before)), []
    for share in SHARES:
        if columns.shares[share].any():
            height = height + columns.shares[share]
            line, ground = _steps(frame, columns.edges, height), frame.y(0)
            path = f"{line}V{ground:.1f}H{LEFT}Z"
            areas.append(f'<path d="{path}" fill="{_var(COLOURS[share])}"/>')
    # Lighter as a whole: single areas would show those below.
    yield f'<g opacity="{OPACITY}">{"".join(reversed(areas))}</g>'
    needles = [
        f"M{frame.x(edge):.1f} {frame.y(low):.1f}V{frame.y(high):.1f}"
        for edge, low, high in zip(columns.edges, height, columns.before, strict=False)
        if high > low
    ]
    if needles:
        yield f'<path d="{"".join(needles)}" stroke="{_var(COLOURS[RECOMPUTE])}" fill="none"/>'


def _outline(frame: _Frame, columns: _Columns) -> str:
    line = _steps(frame, columns.edges, columns.plain)
    return f'<path d="{line}" fill="none" stroke="{_var(INK)}" stroke-width="1.4"/>'


def _steps(frame: _Frame, edges: Sequence[int] | NDArray[np.int64], height: NDArray[Any]) -> str:
    """A line of steps from left to right, as a path."""
    path, last = f"M{frame.x(0):.1f} {frame.y(height[0]):.1f}", height[0]
    for edge, value in zip(edges[1:-1], height[1:], strict=True):
        if value != last:
            path += f"H{frame.x(edge):.1f}V{frame.y(value):.1f}"
            last = value
    return f"{path}H{frame.x(frame.operations):.1f}"


def _phases(frame: _Frame, forward: int) -> str:
    """The backward pass on a darker ground."""
    start, end = frame.x(forward), frame.x(frame.operations)
    return (
        f'<rect x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}" fill="{_var(GRID)}" fill-opacity="0.45"/>'
        + _text((LEFT + start) / 2, TOP - 6, "forward", MUTED, "middle")
        + _text((start + end) / 2, TOP - 6, "backward", MUTED, "middle")
    )


def _grid(frame: _Frame) -> Iterator[str]:
    unit, name = next(
        (scale, name)
        for scale, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
        if frame.top >= scale
    )
    for value in _ticks(frame.top / unit, 6):
        y = frame.y(value * unit)
        yield (
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{_var(GRID)}" '
            'stroke-width="0.7"/>' + _text(LEFT - 8, y + 4, f"{value:g} {name}", MUTED, "end")
        )


def _axes(frame: _Frame) -> Iterator[str]:
    ground = frame.y(0)
    yield f'<path d="M{LEFT} {ground:.1f}H{WIDTH - RIGHT}" stroke="{_var(MUTED)}"/>'
    for value in _ticks(frame.operations, 9):
        yield _text(frame.x(value), ground + 17, f"{value:,.0f}", MUTED, "middle")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield _text(middle, ground + 36, "Operation of the step", MUTED, "middle")


def _budget(frame: _Frame, plan: Plan) -> str:
    y, x = frame.y(plan.budget), frame.x(plan.trace.forward) + 8
    return (
        f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{_var(LIMIT)}" stroke-width="1.6" '
        'stroke-dasharray="6 4"/>' + _text(x, y - 6, "budget", LIMIT)
    )


def _legend(columns: _Columns) -> Iterator[str]:
    """A square a kind of bytes that there are, and a line for the plain step."""
    x = float(LEFT)
    for share in SHARES:
        if columns.shares[share].any():
            fill = f'fill="{_var(COLOURS[share])}" opacity="{OPACITY}"'
            yield f'<rect x="{x:.1f}" y="13" width="12" height="12" {fill}/>'
            yield _text(x + 17, 23, NAMES[share], INK)
            x += 17 + _width(NAMES[share]) + 18
    yield f'<path d="M{x:.1f} 19H{x + 18:.1f}" stroke="{_var(INK)}" stroke-width="1.4"/>'
    yield _text(x + 24, 23, "plain step", INK)


def _ticks(top: float, most: int) -> list[float]:
    """Round numbers from 0 up to a value.

    >>> _ticks(16, 5), _ticks(0.9, 5)
    ([0.0, 5.0, 10.0, 15.0], [0.0, 0.2, 0.4, 0.6, 0.8])
    """
    rough = top / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * part for part in (1, 2, 5, 10) if size * part >= rough * (1 - 1e-9))
    return [round(number * step, 12) for number in range(math.floor(top / step) + 1)]


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    words = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{_var(colour)}"{place}>{words}</text>'


def _width(text: str) -> float:
    """About how wide a text is drawn, a little more than in most fonts."""
    return 6.1 * len(text)


def _var(colour: str) -> str:
    return f"var(--{NAMED[colour]})"
