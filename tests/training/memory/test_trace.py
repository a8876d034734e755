"""Lineages against programs that are run on symbols, and sums over a trace against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_material import programs, traces

from lipt_cords.training.memory.trace import Op, Storage, Trace, lineage


def program_trace(ops, born, later=()):
    """A trace of a forward pass alone, and of operations of the backward pass."""
    storages = tuple(Storage(size=1, born=since, released=len(ops)) for since in born)
    return Trace((*ops, *later), len(ops), storages)


class Machine:
    """Runs operations on symbols: what one returns stands for what it did and what it read."""

    def __init__(self, ops, born, there=()):
        self.ops, self.born, self.symbols, self.drawn = ops, born, {}, itertools.count()
        self.held, self.values = frozenset(there), dict(there)

    def call(self, number):
        """Whether it can be called; it does not touch what is held, as the backward pass needs it.

        What it makes that is there already is dropped.
        """
        op = self.ops[number]
        if any(one >= 0 and one not in self.values for one in op.reads):
            return False
        made = [one for one in op.writes if self.born[one] == number]
        changed = [one for one in op.writes if self.born[one] != number]
        if not self.held.isdisjoint(changed) or any(one not in self.values for one in changed):
            return False
        told = tuple(self.values.get(one, one) for one in op.reads)
        chance = () if op.repeatable else (next(self.drawn), id(self))
        for place, one in enumerate(op.writes):
            if one in changed or (one in made and one not in self.values):
                key = (number, place, told, chance)
                self.values[one] = self.symbols.setdefault(key, key)
        return True

    @classmethod
    def final(cls, ops, born):
        """What each storage holds when the forward pass is over."""
        machine = cls(ops, born)
        assert all(machine.call(number) for number in range(len(ops)))
        return machine.values

    @classmethod
    def makes(cls, ops, born, final, sources, called, wanted):
        """Whether these operations make what the forward pass left, from these sources."""
        machine = cls(ops, born, {one: final[one] for one in sources if one != wanted})
        return all(map(machine.call, called)) and machine.values.get(wanted) == final[wanted]


@st.composite
def demands(draw):
    """A program, a storage of it that is wanted, and others that are there."""
    ops, born = draw(programs)
    if not born:
        ops, born = (Op("f0", 1.0, (-1,), (0,)),), (0,)
    wanted = draw(st.integers(0, len(born) - 1))
    available = draw(st.sets(st.integers(0, len(born) - 1))) - {wanted}
    return ops, born, wanted, available


@settings(max_examples=400)
@given(demand=demands())
def test_a_lineage_makes_what_the_forward_pass_left_and_calls_nothing_else(demand):
    ops, born, wanted, available = demand
    found = lineage(program_trace(ops, born), wanted, available)
    if found is None:
        return
    called, sources = found
    final = Machine.final(ops, born)
    assert list(called) == sorted(set(called)) and list(sources) == sorted(set(sources))
    assert set(sources) <= available and all(ops[number].repeatable for number in called)
    assert Machine.makes(ops, born, final, sources, called, wanted)
    for number in called:  # each of them is needed
        fewer = tuple(other for other in called if other != number)
        assert not Machine.makes(ops, born, final, sources, fewer, wanted)
    assert set(sources) <= {one for number in called for one in ops[number].reads}


def spoils(ops, born, called, wanted):
    """Whether one reads what another changes afterwards, or changes an older storage besides."""
    for number in called:
        op = ops[number]
        needed = {wanted}.union(*(ops[other].reads for other in called if other != number))
        changed = {one for one in op.writes if born[one] != number}
        if any(changed - {one} for one in needed.intersection(op.writes)):
            return True
        later = {one for other in ops[number + 1 :] for one in other.writes}
        if not later.isdisjoint(set(op.reads) - set(op.writes)):
            return True
    return False


@settings(max_examples=150)
@given(demand=demands())
def test_what_has_no_lineage_has_none_by_any_choice_of_operations_or_reads_what_changed(demand):
    ops, born, wanted, available = demand
    ops, born = ops[:8], tuple(since for since in born if since < 8)
    available = {one for one in available if one < len(born)}
    wanted = min(wanted, len(born) - 1)
    if not born or lineage(program_trace(ops, born), wanted, available - {wanted}) is not None:
        return
    final = Machine.final(ops, born)
    repeatable = [number for number, op in enumerate(ops) if op.repeatable]
    for count in range(len(repeatable) + 1):
        for called in itertools.combinations(repeatable, count):
            if Machine.makes(ops, born, final, available, called, wanted):
                assert spoils(ops, born, called, wanted)


def conv(reads, writes, **options):
    return Op("conv", 1.0, reads, writes, **options)


def test_a_chain_is_followed_back_to_what_is_there():
    ops = [conv((-1,), (0,)), conv((0, -2), (1,)), conv((1, -3), (2,))]
    trace = program_trace(ops, (0, 1, 2))
    assert lineage(trace, 2, set()) == ((0, 1, 2), ())
    assert lineage(trace, 2, {0}) == ((1, 2), (0,))
    assert lineage(trace, 2, {0, 1}) == ((2,), (1,))


def test_changes_in_place_belong_to_what_they_change():
    ops = [conv((-1,), (0,)), conv((0,), (1,)), Op("relu_", 1.0, (1,), (1,)), conv((1,), (2,))]
    trace = program_trace(ops, (0, 1, 3))
    assert lineage(trace, 1, {0}) == ((1, 2), (0,))
    assert lineage(trace, 2, {0}) == ((1, 2, 3), (0,))


def test_what_was_read_and_then_changed_is_no_source():
    ops = [conv((-1,), (0,)), conv((0,), (1,)), Op("relu_", 1.0, (0,), (0,))]
    trace = program_trace(ops, (0, 1))
    assert lineage(trace, 1, {0}) is None
    assert lineage(trace, 0, set()) == ((0, 2), ())


def test_one_operation_may_have_many_results_and_two_readers():
    ops = [conv((-1,), (0, 1)), conv((0, 1), (2,))]
    trace = program_trace(ops, (0, 0, 1))
    assert lineage(trace, 2, set()) == ((0, 1), ())
    assert lineage(trace, 2, {1}) == ((0, 1), (1,))


def test_random_numbers_are_not_drawn_again_but_what_they_made_is_a_source():
    ops = [conv((-1,), (0,), repeatable=False), conv((0,), (1,))]
    trace = program_trace(ops, (0, 1))
    assert lineage(trace, 0, set()) is None and lineage(trace, 1, set()) is None
    assert lineage(trace, 1, {0}) == ((1,), (0,))


def test_an_operation_that_changes_another_storage_is_not_called_again():
    ops = [conv((-1,), (0,)), conv((-1,), (1,)), Op("swap_", 1.0, (0, 1), (0, 1))]
    trace = program_trace(ops, (0, 1))
    assert lineage(trace, 0, set()) is None and lineage(trace, 1, {0}) is None


def test_what_the_backward_pass_makes_or_changes_is_none_of_the_forward_pass():
    later = (conv((0,), (1,)), Op("add_", 1.0, (0,), (0,)))
    storages = (Storage(1, 0, 1), Storage(1, 1, 3))
    trace = Trace((conv((-1,), (0,)), *later), 1, storages)
    assert trace.writers == {0: (0,)}
    assert lineage(trace, 0, set()) == ((0,), ()) and lineage(trace, 1, {0}) is None


def test_a_lineage_of_five_thousand_operations_is_found():
    count = 5000
    ops = [conv((number - 1,), (number,)) for number in range(count)]
    trace = program_trace(ops, tuple(range(count)))
    assert lineage(trace, count - 1, set()) == (tuple(range(count)), ())


@settings(max_examples=150)
@given(trace=traces, data=st.data())
def test_bytes_in_memory_are_those_of_a_loop_over_operations_and_storages(trace, data):
    count = len(trace.ops)
    ends = data.draw(
        st.none()
        | st.lists(
            st.integers(0, count + 3),
            min_size=len(trace.storages),
            max_size=len(trace.storages),
        )
    )
    until = [storage.end for storage in trace.storages] if ends is None else ends
    expected = []
    for number in range(count):
        there = [
            storage.size
            for storage, end in zip(trace.storages, until, strict=True)
            if storage.born <= number < end
        ]
        expected.append(trace.resident + trace.given + sum(there))
    live = trace.live(ends)
    assert live.dtype == np.int64 and live.tolist() == expected
    if ends is None:
        assert trace.peak == max(expected)


@settings(max_examples=100)
@given(trace=traces)
def test_sums_and_properties_are_those_of_loops(trace):
    assert trace.base == trace.resident + trace.given
    assert trace.seconds == sum(op.seconds for op in trace.ops)
    assert len(trace.starts) == len(trace.ops) + 1
    for number in range(len(trace.ops) + 1):
        assert trace.starts[number] == sum(op.seconds for op in trace.ops[:number])
    assert trace.activations == sum(s.size for s in trace.storages if s.saved is not None)
    for storage in trace.storages:
        if storage.saved is None:
            assert storage.end == storage.released and not storage.candidate
            continue
        assert storage.end >= storage.released and storage.end >= storage.done
        assert storage.end in (storage.released, storage.done)
        idle = range(storage.released, (storage.accesses or (0,))[0])
        assert storage.candidate == (storage.movable and len(idle) > 0)


@pytest.mark.parametrize(
    ("storage", "end", "candidate"),
    [
        (Storage(8, 0, 3), 3, False),  # the forward pass alone
        (Storage(8, 0, 3, saved=1, accesses=(5,), done=6), 6, True),
        (Storage(8, 0, 3, saved=1, accesses=(5,), done=6, movable=False), 6, False),
        (Storage(8, 0, 5, saved=1, accesses=(5,), done=6), 6, False),  # held until it is needed
        (Storage(8, 0, 9, saved=1, accesses=(5,), done=6), 9, False),  # a caller holds it on
        (Storage(8, 0, 3, saved=1, accesses=(), done=6), 6, False),  # never asked for
    ],
)
def test_when_a_storage_ends_and_whether_it_may_leave(storage, end, candidate):
    assert (storage.end, storage.candidate) == (end, candidate)


def test_a_step_without_operations_takes_what_is_there():
    trace = Trace((), 0, (), resident=5, given=2)
    assert (trace.peak, trace.seconds, trace.activations) == (7, 0.0, 0)
    assert trace.live().tolist() == []
