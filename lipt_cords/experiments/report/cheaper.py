"""What made a warm start's workers cheaper: stages of subnetworks, and an Early-Bird ticket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lipt_cords.experiments.report.curves import Figure
from lipt_cords.experiments.report.svg import INK, MUTED, SERIES, figure, svg_of

SHOWN = 24
"""Masks of a distance matrix, the newest."""


def stages_text(report: Mapping[str, Any]) -> list[str]:
    """What progressive subnetworks cost, stage by stage, in sentences; none without any."""
    stages = report.get("stages") or []
    if not stages:
        return []
    parts = [
        f"paths of {stage['length']:g} block{'s' * (stage['length'] != 1)}, "
        f"{stage['steps']:g} steps: "
        f"{_share(stage['planned'] / stage['passes'])} planned, "
        f"{_share(stage['counted'] / stage['passes'])} counted"
        for stage in stages
    ]
    passes = sum(stage["passes"] for stage in stages)
    planned, counted = (sum(stage[key] for stage in stages) for key in ("planned", "counted"))
    return [
        f"Progressive subnetworks, operations of a worker's step over those of the given net"
        f"{', the ticket included' if report.get('ticket') else ''}: "
        f"{'; '.join(parts)}. In all: {_share(planned / passes)} planned, "
        f"{_share(counted / passes)} counted."
    ]


def ticket_text(report: Mapping[str, Any]) -> list[str]:
    """What became of the Early-Bird search, in sentences; none without one."""
    ticket = report.get("ticket")
    if ticket is None:
        return []
    when = (
        f"{ticket['steps']:,} steps of the common start"
        if ticket.get("steps") is not None
        else f"{ticket['rounds']} rounds"
    )
    settled = "had settled" if ticket["settled"] else "had not settled"
    said = (
        f"An Early-Bird ticket keeps {_share(ticket['share_kept'])} of the channels and "
        f"{_share(ticket['work'])} of the operations. It was drawn after {when}, from "
        f"{ticket['masks']} masks, which {settled}."
    )
    if ticket["rescued"]:
        said += f" Layers that would have vanished: {', '.join(ticket['rescued'])}."
    return [said]


def ticket_figures(report: Mapping[str, Any]) -> Iterator[Figure]:
    """How far masks were from those before, all distances, and what is left of each layer."""
    ticket = report.get("ticket")
    if ticket is None:
        return
    if ticket["masks"] > 1:
        yield _steps(ticket)
        yield _matrix(ticket)
    yield _layers(ticket)


def _steps(ticket: Mapping[str, Any]) -> Figure:
    title = "How far a mask is from the one before, and from the first"
    rows = ticket["distances"]
    numbers = range(2, len(rows) + 1)
    with figure(4.0, 2.9) as (drawn, axis):
        before = [rows[place][place - 1] for place in range(1, len(rows))]
        axis.plot(numbers, before, "o-", color=SERIES[0], markersize=3)
        axis.plot(numbers, rows[0][1:], "o--", color=SERIES[1], markersize=3)
        for value, name in ((before[-1], "before"), (rows[0][-1], "first")):
            axis.annotate(name, (len(rows), value), color=INK, xytext=(-4, 5),
                          textcoords="offset points", ha="right")  # fmt: skip
        axis.set_ylim(bottom=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("Mask")
        axis.set_ylabel("Share of channels that differ")
        return Figure("ticket-steps", title, svg_of(drawn, "ticket-steps", title))


def _matrix(ticket: Mapping[str, Any]) -> Figure:
    title = "Distances of every two masks, % of the channels"
    first = max(0, ticket["masks"] - SHOWN)
    rows = [row[first:] for row in ticket["distances"][first:]]
    most = max(map(max, rows)) or 1.0
    with figure(4.0, 2.9) as (drawn, axis):
        from matplotlib.patches import Rectangle

        for place, row in enumerate(rows):
            for other, value in enumerate(row):
                # One colour and its opacity: it is read on a light page and on a dark one.
                axis.add_patch(
                    Rectangle((other, place), 1, 1, facecolor=SERIES[0], alpha=0.55 * value / most)
                )
                if len(rows) <= 10:
                    axis.text(other + 0.5, place + 0.5, f"{100 * value:.0f}", color=INK,
                              ha="center", va="center", fontsize=8)  # fmt: skip
        every = max(1, len(rows) // 8)
        ticks = range(0, len(rows), every)
        places, names = [tick + 0.5 for tick in ticks], [str(first + tick + 1) for tick in ticks]
        axis.set_xticks(places, names)
        axis.set_yticks(places, names)
        axis.set_xlim(0, len(rows))
        axis.set_ylim(len(rows), 0)
        axis.grid(False)
        axis.set_xlabel("Mask")
        axis.set_ylabel("Mask")
        return Figure("ticket-matrix", title, svg_of(drawn, "ticket-matrix", title))


def _layers(ticket: Mapping[str, Any]) -> Figure:
    title = "Channels that stay, layer by layer"
    layers = list(ticket["layers"].values())
    with figure(4.0, 2.9) as (drawn, axis):
        numbers = range(1, len(layers) + 1)
        axis.bar(numbers, [100 * kept / had for kept, had in layers], color=SERIES[0], width=0.7)
        axis.axhline(100 * (1 - ticket["ratio"]), color=MUTED, linewidth=1, linestyle=":")
        axis.set_ylim(0, 100)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("BatchNorm layer (dotted: the share asked for)")
        axis.set_ylabel("Channels kept, %")
        return Figure("ticket-layers", title, svg_of(drawn, "ticket-layers", title))


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
