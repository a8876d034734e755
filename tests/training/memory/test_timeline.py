"""What a plan would do, against a slow simulator; and when what was swapped starts to come back."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from memory_material import BANDWIDTHS, RANDOMS, drawn_decisions, nets, traces
from memory_reference import SlowSimulator

from lipt_cords.training.memory.recipes import TraceIndex
from lipt_cords.training.memory.timeline import Timeline, needs, simulate, triggers
from lipt_cords.training.memory.trace import KEEP, RECOMPUTE, SWAP, Op, Storage, Trace

STEPS = st.one_of(traces, nets)


@st.composite
def cases(draw, budgets=True):
    """A step, decisions for it, a bandwidth and a budget."""
    trace, random = draw(STEPS), draw(RANDOMS)
    index = TraceIndex(trace)
    budget = math.inf
    if budgets and random.random() < 0.6:
        budget = random.randint(trace.base, trace.peak)
    return index, drawn_decisions(random, index), draw(BANDWIDTHS), budget


def drawn_starts(random: Random, index: TraceIndex, decisions) -> dict[int, int]:
    """Any triggers, late ones too."""
    count = len(index.trace.events)
    return {one: random.randrange(count) for one, what in decisions.items() if what == SWAP}


def assert_same(found: Timeline, slow: SlowSimulator) -> None:
    assert found.live.tolist() == slow.live
    assert found.before.tolist() == slow.before
    assert found.waited == slow.waited
    assert found.recomputed == slow.recomputed
    assert sum(found.held_up.values()) == sum(slow.held_up.values())
    assert (found.left, found.back) == (slow.left, slow.back)
    assert found.ends.tolist() == [slow.until(one) for one in range(len(slow.storages))]


@settings(max_examples=150)
@given(case=cases())
def test_a_step_under_any_decisions_is_that_of_the_slow_simulator(case):
    index, decisions, bandwidth, budget = case
    starts = triggers(index, decisions, bandwidth, budget)
    found = simulate(index, decisions, bandwidth, budget, starts)
    assert_same(found, SlowSimulator(index.trace, decisions, bandwidth, budget, starts))


@settings(max_examples=100)
@given(case=cases(), random=RANDOMS)
def test_so_it_is_with_any_triggers(case, random):
    index, decisions, bandwidth, budget = case
    starts = drawn_starts(random, index, decisions)
    found = simulate(index, decisions, bandwidth, budget, starts)
    assert_same(found, SlowSimulator(index.trace, decisions, bandwidth, budget, starts))


@settings(max_examples=100)
@given(case=cases())
def test_sums_of_a_timeline_are_those_of_its_parts(case):
    index, decisions, bandwidth, budget = case
    found = simulate(index, decisions, bandwidth, budget)
    most = [max(pair) for pair in zip(found.live.tolist(), found.before.tolist(), strict=True)]
    assert found.peak == max(most) and most.index(found.peak) == found.peak_at
    parts = (found.waited, found.held_up, found.recomputed)
    assert found.seconds == sum(seconds for part in parts for seconds in part.values())
    assert all(seconds > 0 for part in parts[:2] for seconds in part.values())


@settings(max_examples=60)
@given(trace=STEPS, bandwidth=BANDWIDTHS)
def test_without_decisions_a_step_is_the_plain_one(trace, bandwidth):
    index = TraceIndex(trace)
    for decisions in ({}, dict.fromkeys(index.candidates, KEEP)):
        found = simulate(index, decisions, bandwidth, trace.base)
        assert found.live.tolist() == trace.live().tolist()
        assert found.seconds == 0 and not found.left and not found.back
        assert found.peak == trace.peak and not found.before.any()


@settings(max_examples=100)
@given(case=cases(budgets=False))
def test_where_the_link_takes_no_time_swaps_cost_nothing_and_each_is_away_meanwhile(case):
    index, decisions, _, _ = case
    swaps = dict.fromkeys(decisions, SWAP)
    for budget in (math.inf, index.trace.base):
        found = simulate(index, swaps, math.inf, budget)
        assert found.seconds == 0
        ends, away = found.ends, np.zeros(len(found.live), dtype=np.int64)
        for one in swaps:
            storage = index.trace.storages[one]
            assert found.left[one] == storage.released
            assert found.back[one] == storage.accesses[0]
            away[storage.released : storage.accesses[0]] += storage.size
        assert (found.live == index.trace.live(ends) - away).all()


@settings(max_examples=100)
@given(case=cases())
def test_a_budget_holds_the_step_up_and_never_adds_to_what_is_in_memory_at_the_start(case):
    index, decisions, bandwidth, budget = case
    starts = triggers(index, decisions, bandwidth)
    free = simulate(index, decisions, bandwidth, math.inf, starts)
    held = simulate(index, decisions, bandwidth, budget, starts)
    assert not free.held_up
    forward = index.trace.forward
    assert (held.live[:forward] <= free.live[:forward]).all()
    if free.peak <= budget:
        assert held.live.tolist() == free.live.tolist() and held.seconds == free.seconds


# When what was swapped starts to come back.


def event_times(trace: Trace) -> list[float]:
    return [float(trace.starts[op]) for op, _ in trace.events]


@settings(max_examples=100)
@given(case=cases(budgets=False), place=st.integers(0, 20), shift=st.integers(0, 12))
def test_a_single_trigger_is_the_last_one_that_comes_in_time(case, place, shift):
    index, _, bandwidth, _ = case
    assume(index.candidates)
    one = index.candidates[place % len(index.candidates)]
    need, times = index.first_event[one], event_times(index.trace)
    takes = index.trace.storages[one].size / bandwidth
    in_time = [event for event in range(need + 1) if times[event] + takes <= times[need]]
    expected = max(in_time, default=0)
    assert triggers(index, {one: SWAP}, bandwidth) == {one: expected}
    sooner = shift / 4
    in_time = [event for event in in_time if times[event] + takes + sooner <= times[need]]
    expected = max(in_time, default=0)
    assert triggers(index, {one: SWAP}, bandwidth, earlier={one: sooner}) == {one: expected}


def in_time(trace: Trace, needed, starts, bandwidth) -> bool:
    """Whether transfers that start at these events, one at a time, all come when needed."""
    free, times = 0.0, event_times(trace)
    for one in sorted(needed, key=lambda one: (starts[one], needed[one], trace.writers[one][-1])):
        free = max(free, times[starts[one]]) + trace.storages[one].size / bandwidth
        if free > times[needed[one]]:
            return False
    return True


@settings(max_examples=150)
@given(case=cases(budgets=False), random=RANDOMS)
def test_triggers_are_the_latest_of_all_that_come_in_time(case, random):
    index, _, bandwidth, _ = case
    trace = index.trace
    swapped = random.sample(index.candidates, min(3, len(index.candidates)))
    needed = {one: index.first_event[one] for one in swapped}
    assume(len(swapped) > 1 and math.prod(need + 1 for need in needed.values()) <= 400)
    swapped.sort(key=lambda one: (needed[one], trace.writers[one][-1]))
    ways = itertools.product(*(range(needed[one] + 1) for one in swapped))
    good = [
        way
        for way in ways
        if list(way) == sorted(way)
        and in_time(trace, needed, dict(zip(swapped, way, strict=True)), bandwidth)
    ]
    found = triggers(index, dict.fromkeys(swapped, SWAP), bandwidth)
    assert found.keys() == needed.keys()
    if good:
        assert [found[one] for one in swapped] == [
            max(events) for events in zip(*good, strict=True)
        ]
    else:
        assert found[swapped[0]] == 0


@settings(max_examples=150)
@given(case=cases())
def test_triggers_come_no_later_than_the_need_and_feedback_moves_them_forward_alone(case):
    index, decisions, bandwidth, budget = case
    first, _ = needs(index, decisions)
    plain = triggers(index, decisions, bandwidth, budget)
    assert plain.keys() == {one for one, what in decisions.items() if what == SWAP}
    assert all(0 <= event <= first[one] for one, event in plain.items())
    for moved in plain:
        earlier = triggers(index, decisions, bandwidth, earlier={moved: 1.0})
        plenty = triggers(index, decisions, bandwidth)
        assert all(earlier[one] <= plenty[one] for one in plain)


@settings(max_examples=150)
@given(case=cases())
def test_triggers_wait_for_room(case):
    index, decisions, bandwidth, budget = case
    unlimited = triggers(index, decisions, bandwidth)
    found = triggers(index, decisions, bandwidth, budget)
    assert all(found[one] >= unlimited[one] for one in found)
    assert triggers(index, decisions, bandwidth, 10**6) == unlimited
    first, _ = needs(index, decisions)
    late = simulate(index, decisions, bandwidth, budget, first)
    if late.peak <= budget:
        assert simulate(index, decisions, bandwidth, budget, found).peak <= budget


@settings(max_examples=150)
@given(case=cases())
def test_the_one_needed_first_is_the_first_to_come(case):
    index, decisions, bandwidth, budget = case
    first, _ = needs(index, decisions)
    found = triggers(index, decisions, bandwidth, budget)
    for one, other in itertools.pairwise(found):  # in the order in which the guide asks for them
        if found[one] == found[other]:
            assert first[one] <= first[other]


@settings(max_examples=150)
@given(case=cases(budgets=False))
def test_what_is_triggered_in_time_is_not_waited_for(case):
    index, decisions, bandwidth, _ = case
    trace = index.trace
    swaps = dict.fromkeys(decisions, SWAP)
    found = triggers(index, swaps, bandwidth)
    first = {one: index.first_event[one] for one in swaps}
    if in_time(trace, first, found, bandwidth):
        timeline = simulate(index, swaps, bandwidth, math.inf, found)
        assert not timeline.waited


# Small steps, by hand.


def hand_step(storages, seconds, events, forward, reads=None, writes=None) -> Trace:
    """A step from its storages; an operation reads and writes what is said, and makes its own."""
    ops = []
    for number, took in enumerate(seconds):
        made = [one for one, storage in enumerate(storages) if storage.born == number]
        changed = [*(writes or {}).get(number, ())]
        read = [*(reads or {}).get(number, ()), *changed]
        ops.append(Op(f"op{number}", took, tuple(read), tuple(made + changed)))
    packs = sorted(
        (storage.saved, one) for one, storage in enumerate(storages) if storage.saved is not None
    )
    return Trace(
        tuple(ops),
        forward,
        tuple(storages),
        0,
        0,
        tuple(one for _, one in packs),
        (),
        tuple(events),
    )


def test_of_two_with_the_same_trigger_the_one_needed_first_is_not_held_back():
    storages = [
        Storage(8, 0, 2, saved=1, accesses=(5,), done=6),
        Storage(8, 1, 3, saved=2, accesses=(4,), done=5),
        Storage(1, 2, 3, saved=3, accesses=(3,), done=4),
    ]
    trace = hand_step(storages, [9, 9, 9, 8, 8, 1], [(3, 2), (4, 1), (5, 0)], 3)
    index, swaps = TraceIndex(trace), {0: SWAP, 1: SWAP}
    assert triggers(index, swaps, 1.0) == {0: 1, 1: 0}
    starts = {0: 0, 1: 0}
    assert simulate(index, swaps, 1.0, starts=starts).waited == {}


def test_what_is_changed_in_place_by_what_was_made_after_it_is_made_again_after_it():
    storages = [
        Storage(1, 0, 3, saved=1, accesses=(7,), done=8),
        Storage(1, 1, 4, saved=4, accesses=(5,), done=6),
        Storage(1, 2, 4, saved=3, accesses=(6,), done=7),
    ]
    reads = {2: (0,), 3: (2,)}
    events = [(5, 1), (6, 2), (7, 0)]
    trace = hand_step(storages, [1] * 9, events, 5, reads, {3: (1,)})
    index = TraceIndex(trace)
    assert index.recipes[1].sources == (2,) and index.recipes[2].sources == (0,)
    first, _ = needs(index, {0: SWAP, 1: RECOMPUTE, 2: RECOMPUTE})
    assert first == {0: 0, 1: 0, 2: 0}


def test_what_is_saved_first_leaves_first():
    storages = [
        Storage(4, 0, 3, saved=3, accesses=(6,), done=7),
        Storage(4, 1, 3, saved=3, accesses=(5,), done=6),
    ]
    trace = hand_step(storages, [1, 1, 1, 4, 4, 1, 1], [(5, 1), (6, 0)], 5)
    trace = replace(trace, packs=(1, 0))
    found = simulate(TraceIndex(trace), {0: SWAP, 1: SWAP}, 1.0)
    assert found.left == {1: 4, 0: 5}


def test_what_left_during_a_wait_has_to_come_back():
    storages = [
        Storage(4, 0, 2, saved=2, accesses=(3,), done=4),
        Storage(4, 1, 2, saved=2, accesses=(3,), done=4),
    ]
    trace = hand_step(storages, [4, 1, 4, 1], [(3, 0), (3, 1)], 3)
    index = TraceIndex(trace)
    assert index.recipes[0].seconds == 4
    found = simulate(index, {0: RECOMPUTE, 1: SWAP}, 0.5, starts={1: 1})
    assert found.left == {0: 2, 1: 3} and found.waited == {1: 8.0}


def test_waiting_is_for_what_leaves_alone():
    storages = [
        Storage(4, 0, 3, saved=1, accesses=(4,), done=5),  # the forward pass holds it on
        Storage(4, 1, 2),
    ]
    trace = hand_step(storages, [1, 1, 9, 1, 1], [(4, 0)], 4)
    found = simulate(TraceIndex(trace), {0: SWAP}, 1.0, 7)
    assert found.live.tolist() == [4, 8, 4, 0, 4] and found.held_up == {}


def test_a_source_that_is_there_is_not_made_again_beside_itself():
    storages = [
        Storage(8, 0, 2, saved=1, accesses=(6,), done=7),
        Storage(1, 0, 2),
        Storage(4, 1, 3, saved=3, accesses=(5,), done=6),
        Storage(4, 2, 3),
    ]
    reads = {1: (1,), 2: (0, 2)}
    trace = hand_step(storages, [1] * 7, [(5, 2), (6, 0)], 4, reads, {2: (2,)})
    recipe = TraceIndex(trace).recipes[2]
    assert (recipe.ops, recipe.sources, recipe.peak) == ((0, 1, 2), (0,), 9)


def test_a_demand_after_the_last_operation_costs_what_it_costs():
    storages = [Storage(4, 0, 1, saved=1, accesses=(3,), done=3)]
    trace = hand_step(storages, [2, 1, 1], [(3, 0)], 3)
    found = simulate(TraceIndex(trace), {0: RECOMPUTE}, 1.0)
    assert found.recomputed == {0: 2.0}


def test_what_cannot_be_made_again_is_not_recomputed():
    storages = [Storage(4, 0, 1, saved=1, accesses=(3,), done=4)]
    trace = hand_step(storages, [1] * 4, [(3, 0)], 3)
    ops = (replace(trace.ops[0], repeatable=False), *trace.ops[1:])
    index = TraceIndex(replace(trace, ops=ops))
    assert index.recipes == {0: None}
    with pytest.raises(ValueError, match="storage 0 cannot be recomputed"):
        simulate(index, {0: RECOMPUTE}, 1.0)
