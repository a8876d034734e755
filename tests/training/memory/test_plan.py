"""Plans against all decisions there are, and what any plan must keep to."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from memory_material import (
    BANDWIDTHS,
    RANDOMS,
    Layer,
    drawn_net,
    drawn_trace,
    net_trace,
    nets,
    traces,
)

from lipt_cords.base.sizes import parse_bytes
from lipt_cords.training.memory.plan import Plan, least_budget, plan_activations
from lipt_cords.training.memory.recipes import TraceIndex, free_time
from lipt_cords.training.memory.timeline import simulate
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP, Op, Storage, Trace

POLICIES = ("both", "swap", "recompute")
STEPS = st.one_of(traces, nets).filter(lambda trace: len(trace.events) > 0)


@st.composite
def requests(draw):
    """A step, a budget for it, a bandwidth and a policy."""
    trace, random = draw(STEPS), draw(RANDOMS)
    options = {"bandwidth": draw(BANDWIDTHS), "policy": draw(st.sampled_from(POLICIES))}
    lowest = trace.base if random.random() < 0.3 else least_budget(trace, **options)
    return trace, random.randint(lowest, max(lowest, trace.peak)), options


def plan_or_none(trace: Trace, budget: int, **options) -> Plan | None:
    try:
        return plan_activations(trace, budget, **options)
    except ValueError:
        return None


def every_decision(index: TraceIndex, ways=(SWAP, RECOMPUTE)):
    """All decisions for a step."""
    choices = [
        [KEEP, *(what for what in ways if what == SWAP or index.recipes[one] is not None)]
        for one in index.candidates
    ]
    for choice in itertools.product(*choices):
        decided = zip(index.candidates, choice, strict=True)
        yield {one: what for one, what in decided if what != KEEP}


def least_seconds(
    index: TraceIndex, budget: int, bandwidth: float, ways=(SWAP, RECOMPUTE)
) -> float:
    """Of all decisions that fit; infinite if none does."""
    found = (simulate(index, way, bandwidth, budget) for way in every_decision(index, ways))
    return min((each.seconds for each in found if each.peak <= budget), default=math.inf)


@settings(max_examples=200)
@given(request=requests())
def test_a_plan_fits_or_the_error_says_a_budget_that_does(request):
    trace, budget, options = request
    try:
        plan = plan_activations(trace, budget, **options)
    except ValueError as error:
        assert budget < least_budget(trace, **options)
        told = re.search(r"the step takes ([^:]+): give at least that", str(error))
        assert told is not None
        least = parse_bytes(told[1])
        assert least > budget and plan_activations(trace, least, **options).peak <= least
    else:
        assert plan.peak <= budget


@settings(max_examples=150)
@given(request=requests())
def test_a_plan_decides_on_candidates_alone_and_does_what_its_timeline_says(request):
    trace, budget, options = request
    plan = plan_or_none(trace, budget, **options)
    assume(plan is not None)
    index = TraceIndex(trace)
    allowed = {SWAP, RECOMPUTE} if options["policy"] == "both" else {options["policy"]}
    for one, what in plan.decisions.items():
        assert one in index.candidates and what in allowed
        assert what == SWAP or index.recipes[one] is not None
    assert plan.triggers.keys() == {one for one in plan.decisions if plan.decisions[one] == SWAP}
    again = simulate(index, plan.decisions, options["bandwidth"], budget, plan.triggers)
    assert again.live.tolist() == plan.timeline.live.tolist()
    assert again.before.tolist() == plan.timeline.before.tolist()
    assert (again.seconds, again.left) == (plan.timeline.seconds, plan.timeline.left)
    assert plan.budget == budget and plan.bandwidth == options["bandwidth"]


@settings(max_examples=60)
@given(trace=STEPS, bandwidth=BANDWIDTHS, policy=st.sampled_from(POLICIES), more=st.integers(0, 99))
def test_a_step_that_fits_is_left_alone(trace, bandwidth, policy, more):
    plan = plan_activations(trace, trace.peak + more, bandwidth=bandwidth, policy=policy)
    assert plan.decisions == {} and plan.triggers == {}
    assert plan.peak == trace.peak and plan.overhead == 0


@settings(max_examples=100)
@given(trace=STEPS, bandwidth=BANDWIDTHS, policy=st.sampled_from(POLICIES))
def test_the_least_budget_can_be_planned_and_so_can_all_above_it(trace, bandwidth, policy):
    least = least_budget(trace, bandwidth=bandwidth, policy=policy)
    assert trace.base <= least <= trace.peak
    for budget in sorted({least, least + 1, (least + trace.peak) // 2}):
        assert plan_activations(trace, budget, bandwidth=bandwidth, policy=policy).peak <= budget


@settings(max_examples=60)
@given(trace=STEPS)
def test_where_the_link_takes_no_time_the_least_is_with_every_candidate_away(trace):
    index, fast = TraceIndex(trace), 2.0**80  # a transfer takes no more than a clock can tell
    away = simulate(index, dict.fromkeys(index.candidates, SWAP), math.inf)
    assert least_budget(trace, bandwidth=fast, policy="swap") == away.peak
    plan = plan_activations(trace, away.peak, bandwidth=fast)
    assert plan.timeline.seconds < 1e-20


@settings(max_examples=60)
@given(request=requests())
def test_no_plan_beats_the_best_of_all_decisions(request):
    trace, budget, options = request
    index = TraceIndex(trace)
    assume(1 <= len(index.candidates) <= 5)
    plan = plan_or_none(trace, budget, **options)
    ways = {"both": (SWAP, RECOMPUTE)}.get(options["policy"], (options["policy"],))
    best = least_seconds(index, budget, options["bandwidth"], ways)
    if best == math.inf:
        assert plan is None
    if plan is not None:
        assert plan.timeline.seconds >= best


def assert_most_are_best(draw, depth: int) -> None:
    """Compare plans for drawn steps with all decisions that there are."""
    gaps, seeds = [], itertools.count()
    while len(gaps) < 60:
        random = Random(next(seeds))
        index = TraceIndex(draw(random, random.randint(3, depth)))
        trace, bandwidth = index.trace, random.choice([4.0, 16.0, 64.0])
        if not 2 <= len(index.candidates) <= 5:
            continue
        least = least_budget(trace, bandwidth=bandwidth)
        for budget in sorted({least, (2 * least + trace.peak) // 3, (least + trace.peak) // 2}):
            plan = plan_activations(trace, budget, bandwidth=bandwidth)
            best = least_seconds(index, budget, bandwidth)
            gaps.append((plan.timeline.seconds - best) / trace.seconds)
    assert min(gaps) >= 0
    assert sum(gap == 0 for gap in gaps) >= 0.9 * len(gaps)
    assert sum(gaps) / len(gaps) < 0.02


def test_most_plans_for_nets_are_the_best_that_there_are():
    assert_most_are_best(drawn_net, 8)


def test_most_plans_for_any_steps_are_the_best_that_there_are():
    assert_most_are_best(drawn_trace, 12)


def test_where_swaps_alone_cost_nothing_a_plan_for_a_net_costs_nothing():
    found, seeds = [], itertools.count()
    while len(found) < 40:
        random = Random(next(seeds))
        index = TraceIndex(drawn_net(random, random.randint(3, 8)))
        trace, bandwidth = index.trace, random.choice([16.0, 64.0])
        least = least_budget(trace, bandwidth=bandwidth, policy="swap")
        if not 2 <= len(index.candidates) <= 6 or least == trace.peak:
            continue
        budget = random.randint(least, trace.peak - 1)
        if least_seconds(index, budget, bandwidth, (SWAP,)) == 0:
            found.append(plan_activations(trace, budget, bandwidth=bandwidth))
    assert all(plan.decisions and plan.overhead == 0 for plan in found)


# What changes nothing but the units.


@settings(max_examples=60)
@given(request=requests(), more=st.integers(0, 1000))
def test_what_is_there_all_the_time_shifts_a_plan_and_changes_nothing_else(request, more):
    trace, budget, options = request
    plan = plan_or_none(trace, budget, **options)
    shifted = replace(trace, resident=trace.resident + more)
    after = plan_or_none(shifted, budget + more, **options)
    assert (plan is None) == (after is None)
    if plan is not None:
        assert after.decisions == plan.decisions and after.triggers == plan.triggers
        assert after.peak == plan.peak + more and after.timeline.seconds == plan.timeline.seconds


@settings(max_examples=60)
@given(request=requests(), bytes_power=st.integers(0, 20), seconds_power=st.integers(-10, 3))
def test_units_change_nothing(request, bytes_power, seconds_power):
    trace, budget, options = request
    plan = plan_or_none(trace, budget, **options)
    scale, slower = 2**bytes_power, 2.0**seconds_power
    ops = tuple(replace(op, seconds=op.seconds * slower) for op in trace.ops)
    storages = tuple(replace(one, size=one.size * scale) for one in trace.storages)
    scaled = replace(
        trace,
        ops=ops,
        storages=storages,
        resident=trace.resident * scale,
        given=trace.given * scale,
    )
    options = {**options, "bandwidth": options["bandwidth"] * scale / slower}
    after = plan_or_none(scaled, budget * scale, **options)
    assert (plan is None) == (after is None)
    if plan is not None:
        assert after.decisions == plan.decisions and after.triggers == plan.triggers
        assert after.peak == plan.peak * scale
        assert after.timeline.seconds == plan.timeline.seconds * slower


# By hand.


def small_step(size=8, seconds=4.0) -> Trace:
    """Three storages, each made from the one before; the last one is needed first."""
    ops = [Op(f"f{n}", seconds, (n - 1,), (n,)) for n in range(3)] + [
        Op(f"b{n}", seconds) for n in range(4)
    ]
    storages = tuple(
        Storage(size, n, n + 2 if n < 2 else 3, saved=n + 1, accesses=(6 - n,), done=7 - n)
        for n in range(3)
    )
    events = ((4, 2), (5, 1), (6, 0))
    return Trace(tuple(ops), 4, storages, packs=(0, 1, 2), events=events)


def test_of_equal_ones_the_longest_idle_is_swapped():
    trace = small_step()
    plan = plan_activations(trace, 16, bandwidth=8.0)
    assert plan.decisions == {0: SWAP} and plan.overhead == 0
    # It leaves once the forward pass has let go of it, and is under way for the last second.
    assert plan.timeline.left == {0: 2} and plan.triggers == {0: 1}
    assert plan.timeline.live.tolist() == [8, 16, 16, 16, 16, 16, 8]


def test_a_slow_link_is_left_alone_where_making_it_again_costs_less():
    trace = small_step()
    plan = plan_activations(trace, 16, bandwidth=0.125)
    assert plan.decisions == {0: RECOMPUTE} and plan.timeline.seconds == 4
    assert plan.overhead == 4 / 28
    assert plan.bytes_by_decision() == {KEEP: 16, SWAP: 0, RECOMPUTE: 8}
    assert plan.counts() == {SWAP: 0, RECOMPUTE: 1}


def test_one_is_made_again_from_nothing_and_the_next_comes_over_a_slow_link():
    # Both over the link take twice as long; both made again take the room that there is not.
    trace = net_trace([Layer("conv", 32, 1.0), Layer("bn", 32, 2.0), Layer("relu", 32, 0.25)])
    plan = plan_activations(trace, 126, bandwidth=4.0)
    assert plan.decisions == {0: RECOMPUTE, 1: SWAP}
    assert plan.timeline.seconds == least_seconds(TraceIndex(trace), 126, 4.0) == 15.9375


@settings(max_examples=60)
@given(trace=STEPS, bandwidth=BANDWIDTHS)
def test_free_time_is_what_is_left_between_the_way_out_and_the_way_back(trace, bandwidth):
    index = TraceIndex(trace)
    for one in index.candidates:
        storage = trace.storages[one]
        between = trace.ops[storage.saved : storage.accesses[0]]
        idle = sum(op.seconds for op in between)
        assert free_time(index, one, bandwidth) == idle - 2 * storage.size / bandwidth


@settings(max_examples=60)
@given(request=requests())
def test_bytes_by_decision_are_those_of_all_activations(request):
    trace, budget, options = request
    plan = plan_or_none(trace, budget, **options)
    assume(plan is not None)
    found = plan.bytes_by_decision()
    assert sum(found.values()) == trace.activations
    for what in (SWAP, RECOMPUTE):
        decided = [one for one in plan.decisions if plan.decisions[one] == what]
        assert found[what] == sum(trace.storages[one].size for one in decided)
        assert plan.counts()[what] == len(decided)


def test_a_step_without_seconds_has_no_overhead():
    trace = small_step(seconds=0.0)
    assert plan_activations(trace, 16, policy="recompute").overhead == 0.0


@pytest.mark.parametrize("bandwidth", [0, -1.0, math.nan, math.inf, True, "12e9"])
def test_a_bandwidth_that_is_none_is_refused(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be positive, .*bytes a second"):
        plan_activations(small_step(), 16, bandwidth=bandwidth)


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(ValueError, match="policy must be 'both', 'swap' or 'recompute'"):
        plan_activations(small_step(), 16, policy="swaps")


def test_a_step_that_saved_nothing_is_refused():
    trace = Trace((Op("f", 1.0, (-1,), (0,)),), 1, (Storage(4, 0, 1),))
    with pytest.raises(ValueError, match="saved nothing for a backward pass"):
        plan_activations(trace, 1)


def test_a_step_without_a_backward_pass_is_refused():
    trace = replace(small_step(), events=())
    with pytest.raises(ValueError, match="no backward pass asked for them"):
        plan_activations(trace, 16)


def test_a_budget_that_is_too_small_is_told_what_there_is_and_what_would_do():
    trace = replace(small_step(), resident=2048, given=100)
    assert least_budget(trace, bandwidth=8.0) == 2148 + 16
    with pytest.raises(ValueError, match=r"of 2\.10 KiB is too small.*takes 2\.10 KiB.*2\.12 KiB"):
        plan_activations(trace, 2148, bandwidth=8.0)
