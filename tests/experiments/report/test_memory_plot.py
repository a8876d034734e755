"""The picture of a planned step: its numbers are the plan's, and all of it lies in the picture."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from lipt_cords.experiments.report.memory import (
    HEIGHT,
    LEFT,
    MOST_COLUMNS,
    RIGHT,
    TOP,
    WIDTH,
    memory_timeline,
)
from lipt_cords.experiments.report.svg import NAMED, as_file
from lipt_cords.training.memory.breakdown import BASE, SHARES, bytes_by_share, plain_peak
from lipt_cords.training.memory.plan import Plan, least_budget, plan_activations
from lipt_cords.training.memory.planner import MemoryPlanner
from lipt_cords.training.memory.trace import Trace

SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def trace() -> Trace:
    """A real step of a small net."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for _ in range(5):
        blocks += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU()]
    net = nn.Sequential(nn.Conv2d(1, 8, 3), *blocks, nn.Flatten(), nn.Linear(8 * 36, 10))
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    planner = MemoryPlanner(net, budget=2**60)
    for _ in range(2):
        with planner:
            nn.functional.cross_entropy(net(images), labels).backward()
        net.zero_grad()
    return planner.traces[0]


def _plans(trace: Trace) -> list[Plan]:
    """Plans of every policy, from the tightest budget to one that moves nothing."""
    plans = []
    for policy in ("both", "swap", "recompute"):
        for bandwidth in (1e8, 12e9):
            terms: dict[str, Any] = {"bandwidth": bandwidth, "policy": policy}
            least = least_budget(trace, **terms)
            for budget in (least, (least + trace.peak) // 2, 2 * trace.peak):
                plans.append(plan_activations(trace, budget, **terms))
    return plans


def _drawn(plan: Plan) -> ElementTree.Element:
    return ElementTree.fromstring(memory_timeline(plan))


def test_shares_add_up_to_the_plans_bytes_at_every_operation(trace: Trace) -> None:
    plans = _plans(trace)
    for plan in plans:
        shares = bytes_by_share(plan)
        assert tuple(shares) == SHARES
        np.testing.assert_array_equal(sum(shares.values()), plan.timeline.live)
        assert all((share >= 0).all() for share in shares.values())
        assert (shares[BASE] == trace.base).all()
        for decision in ("keep", "swap", "recompute"):
            assert shares[decision].max() <= plan.bytes_by_decision()[decision]
    assert {"swap", "recompute"} <= {what for plan in plans for what in plan.decisions.values()}
    parts = plain_peak(trace)
    assert parts.total == trace.peak and parts.resident + parts.inputs == trace.base
    assert 0 < parts.activations <= trace.activations


def test_the_picture_is_whole_and_in_named_colours(trace: Trace) -> None:
    for plan in _plans(trace):
        picture = _drawn(plan)
        assert picture.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}" == "0 0 900 420"
        assert "planned" in str(picture.get("aria-label"))
        for text in picture.iter(f"{SPACE}text"):
            x, y, words = float(text.get("x", -1)), float(text.get("y", -1)), text.text or ""
            width = 6.8 * len(words)  # of a wide font
            start = {"middle": x - width / 2, "end": x - width}.get(
                text.get("text-anchor", "start"), x
            )
            assert start >= 0 and start + width <= WIDTH and 12 <= y <= HEIGHT, words
        colours = {one.get(name) for one in picture.iter() for name in ("fill", "stroke")}
        assert colours - {None, "none"} <= {f"var(--{name})" for name in NAMED.values()}
        for path in picture.iter(f"{SPACE}path"):
            for y in re.findall(r"V([-\d.]+)", path.get("d", "")):
                assert TOP - 1 <= float(y) <= HEIGHT
        file = as_file(memory_timeline(plan))
        assert "var(--" not in file and ElementTree.fromstring(file.encode()) is not None


def test_the_legend_names_what_there_is_and_the_budget_is_drawn_where_it_fits(
    trace: Trace,
) -> None:
    def words(plan: Plan) -> list[str]:
        return [str(text.text) for text in _drawn(plan).iter(f"{SPACE}text")]

    tight = plan_activations(trace, least_budget(trace, policy="swap"), policy="swap")
    assert {"swapped", "kept", "plain step", "budget", "forward", "backward"} <= set(words(tight))
    assert "recomputed" not in words(tight)
    wide = plan_activations(trace, 2**40)
    assert not {"swapped", "recomputed", "budget"} & set(words(wide))
    assert any("1024.00 GiB, out of sight" in one for one in words(wide))


def test_the_highest_column_is_the_peak(trace: Trace) -> None:
    plan = plan_activations(trace, 2**40)
    areas = next(_drawn(plan).iter(f"{SPACE}g"))
    line = str(areas[0].get("d"))
    top = min(float(y) for y in re.findall(r"(?: |V)([\d.]+)(?=H)", line))
    ground = HEIGHT - 48
    assert top == pytest.approx(ground - (ground - TOP) / 1.05, abs=0.2)
    right = max(float(x) for x in re.findall(r"H([\d.]+)", line))
    assert right == WIDTH - RIGHT and line.startswith(f"M{LEFT}")


def test_a_step_of_very_many_operations_stays_small(trace: Trace) -> None:
    many = 40
    count, made = len(trace.ops), len(trace.storages)
    ops, storages, events = list(trace.ops), list(trace.storages), list(trace.events)
    for turn in range(1, many):  # the same step again and again, in one forward pass
        ops += [replace(op, reads=(), writes=()) for op in trace.ops]
        storages += [
            replace(
                one, born=one.born + turn * count, released=one.released + turn * count,
                done=one.done + turn * count, saved=None, accesses=(),
            )
            for one in trace.storages
        ]  # fmt: skip
    long = Trace(tuple(ops), trace.forward, tuple(storages), trace.resident, trace.given,
                 events=tuple(events))  # fmt: skip
    assert len(long.ops) > 5 * MOST_COLUMNS and len(long.storages) == many * made
    plan = plan_activations(long, 2**40)
    text = memory_timeline(plan)
    assert len(text) < 60_000
    assert ElementTree.fromstring(text) is not None


def test_a_step_without_operations_is_refused(trace: Trace) -> None:
    plan = replace(plan_activations(trace, 2**40), trace=Trace((), 0, ()))
    with pytest.raises(ValueError, match="nothing to draw: measure one"):
        memory_timeline(plan)
