"""the largest batch in 16 GiB, plain and planned, beside Capuchin's.

Nothing here holds such a batch. Steps are measured at two small ones, and every storage's bytes and
every operation's seconds are extrapolated on the line through them; a third batch is measured to
see how far off that is.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from typing import Any

from benchmarks.memory.nets import Case, Training, measured, torchvision
from benchmarks.memory.scaling import extrapolated
from lipt_cords.experiments.memory_bench import faster
from lipt_cords.training.memory.largest_batch import largest_batch
from lipt_cords.warmstart.memory import Trace, least_budget, plan_activations

BUDGET, BANDWIDTH, SPEED = 16 * 2**30, 12e9, 200
"""A P100's memory, its slot's bytes a second, and how much faster than a core it is taken for."""
SIZES, CHECK = (4, 8), 12
CAPUCHIN = {"vgg16": (228, 350), "resnet50": (190, 1014), "resnet152": (86, 798)}
"""Batches that TensorFlow and Capuchin hold on a P100 of 16 GB (ASPLOS 2020, table 2)."""

Row = dict[str, Any]


def trace_of(net: str, batch: int, image: int) -> Trace:
    """A step's, on a batch of ImageNet's shape."""
    case = Case(net, partial(torchvision, net, 1000), (batch, 3, image, image))
    return measured(Training(case))


def row(net: str, image: int = 224, budget: int = BUDGET) -> Row:
    """One net."""
    few, many = ((size, trace_of(net, size, image)) for size in SIZES)

    def on(batch: int) -> Trace:
        return extrapolated(few, many, batch)

    def on_device(batch: int) -> Trace:
        return faster(on(batch), SPEED)

    plain = bisect_right(range(1, 2**16), budget, key=lambda batch: on(batch).peak)
    found = largest_batch(on_device, budget, bandwidth=BANDWIDTH, start=plain, at_most=2**16)
    twice = on_device(2 * plain)
    if found.plan is None:
        raise RuntimeError("not even the plain batch was planned")
    doubled = found.planned >= 2 * plain and plan_activations(twice, budget, bandwidth=BANDWIDTH)
    theirs = CAPUCHIN[net]
    return {
        "net": net, "image": image, "budget": budget, "speed": SPEED, "bandwidth": BANDWIDTH,
        "extrapolated_from": list(SIZES), "check": _check(on(CHECK), trace_of(net, CHECK, image)),
        "plain": plain, "planned": found.planned, "ratio": found.planned / plain,
        "capuchin": {"plain": theirs[0], "planned": theirs[1], "ratio": theirs[1] / theirs[0]},
        "overhead": {
            "planned": found.plan.overhead, "twice": doubled.overhead if doubled else None,
        },
        "decisions": found.plan.counts(), "seconds_a_sample": found.plan.trace.seconds
        / found.planned, "operations": len(found.plan.trace.ops),
    }  # fmt: skip


def _check(said: Trace, seen: Trace) -> Row:
    """What was extrapolated over what was measured, at a batch that was used for neither."""
    least = (least_budget(trace, bandwidth=BANDWIDTH) for trace in (said, seen))
    said_least, seen_least = least
    return {
        "batch": CHECK, "plain_peak": said.peak / seen.peak, "least": said_least / seen_least,
        "seconds": said.seconds / seen.seconds,
    }  # fmt: skip
