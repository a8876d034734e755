"""The fixed-point sum: the same bits in any order, and never off by more than it promises."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipt_cords.warmstart.averaging import tensor_state
from lipt_cords.warmstart.exact import ExactSum, largest_changes

VALUES = st.one_of(
    st.just(0.0),
    st.floats(-8, 8, width=32),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.sampled_from([2.0**e for e in range(-40, 4)]),
)


@st.composite
def crews(draw, dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16)):
    """A start, its workers, and their weights; entries are often left alone or cleared."""
    dtype, count = draw(st.sampled_from(dtypes)), draw(st.integers(1, 9))
    start = draw(st.lists(VALUES, min_size=1, max_size=6))
    workers = [
        [draw(st.one_of(st.just(value), st.just(0.0), VALUES)) for value in start]
        for _ in range(count)
    ]
    weights = draw(
        st.one_of(
            st.just([1] * count), st.lists(st.integers(1, 99), min_size=count, max_size=count)
        )
    )
    states = [{"w": torch.tensor(w, dtype=dtype), "n": torch.tensor(len(w))} for w in workers]
    return {"w": torch.tensor(start, dtype=dtype), "n": torch.tensor(0)}, states, weights


def sum_of(origin, states, weights):
    columns = zip(*(largest_changes(state, origin) for state in states), strict=True)
    return ExactSum(origin, len(states), [max(column) for column in columns], max(weights))


def merge(origin, states, weights=None, order=None, ranks=1):
    """Deal the workers to ranks in an order, and add their sums as they travel on the wire."""
    weights = weights or [1] * len(states)
    parts = [sum_of(origin, states, weights) for _ in range(ranks)]
    for place, worker in enumerate(order or range(len(states))):
        parts[place % ranks].add(states[worker], weights[worker])
    total = torch.stack([part.total.to(part.dtype) for part in parts]).sum(0, dtype=parts[0].dtype)
    return parts[0].mean(total.long(), sum(weights), len(states))


def half_a_step(origin, states, weights, name="w"):
    """Half a step of an entry's grid: below the next power of two, as many bits as are promised."""
    bits = (61 if origin[name].dtype == torch.float64 else 30) - math.ceil(math.log2(len(states)))
    most = max(float((s[name].double() - origin[name].double()).abs().max()) for s in states)
    mantissa, exponent = math.frexp(most * max(weights))
    return 2.0 ** (exponent - (mantissa == 0.5) - bits - 1)


@settings(deadline=None, max_examples=100)
@given(crew=crews(), data=st.data())
def test_any_order_on_any_ranks_gives_the_same_bits(crew, data):
    origin, states, weights = crew
    expected = merge(origin, states, weights)
    order = data.draw(st.permutations(range(len(states))))
    found = merge(origin, states, weights, order, ranks=data.draw(st.integers(1, 5)))
    assert all(found[name].equal(expected[name]) for name in origin)
    assert [value.dtype for value in found.values()] == [v.dtype for v in origin.values()]


@settings(deadline=None, max_examples=150)
@given(crew=crews())
def test_the_mean_is_off_by_half_a_step_at_most(crew):
    origin, states, weights = crew
    found, total = merge(origin, states, weights)["w"], sum(weights)
    # Each of K terms is rounded by half a step, and their sum divided by the weights' sum W.
    half = half_a_step(origin, states, weights) * len(states) / total
    finfo = torch.finfo(found.dtype)
    for entry, got in enumerate(found.tolist()):
        parts = [Fraction(float(state["w"][entry])) for state in states]
        exact = sum(w * part for w, part in zip(weights, parts, strict=True)) / total
        largest = max(abs(float(part)) for part in (*parts, Fraction(float(origin["w"][entry]))))
        rounding = 0.501 * finfo.eps * abs(float(exact)) + finfo.smallest_normal * finfo.eps
        rounding += 2.0**-50 * largest * max(weights) * len(states) / total  # of float64
        error = abs(float(Fraction(got) - exact))
        # What is at most half a step is taken for the zero that all workers may have had.
        zeroed = 1.0002 * half_a_step(origin, states, weights) if got == 0 else 0
        assert error <= half + zeroed + rounding


@settings(deadline=None, max_examples=100)
@given(crew=crews(), stays=VALUES, gone=VALUES)
def test_what_nobody_changed_stays_and_what_all_cleared_is_zero(crew, stays, gone):
    origin, states, weights = crew
    dtype = origin["w"].dtype
    origin = origin | {"w": torch.cat([origin["w"], torch.tensor([stays, gone], dtype=dtype)])}
    states = [
        state | {"w": torch.cat([state["w"], torch.tensor([stays, 0.0], dtype=dtype)])}
        for state in states
    ]
    found = merge(origin, states, weights)["w"]
    assert found[-2].equal(origin["w"][-2])
    # Less than half a step cannot be told from what stayed.
    half = half_a_step(origin, states, weights)
    assert float(found[-1]) == 0 or abs(float(origin["w"][-1])) <= half


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [[1, 1, 1], [5, 1, 9]])
def test_a_layer_that_all_pruned_is_zero(dtype, weights):
    generator = torch.Generator().manual_seed(0)
    origin = {"w": torch.randn(3000, generator=generator, dtype=dtype) * 0.1}
    origin["w"][0] = 3.0
    cleared = {"w": torch.zeros(3000, dtype=dtype)}
    assert int(merge(origin, [cleared] * 3, weights)["w"].count_nonzero()) == 0


def test_only_what_is_within_a_step_of_zero_is_taken_for_zero():
    step = 2.0**-30  # of a tensor whose largest change is 1
    starts, ends = torch.meshgrid(*[torch.arange(-40, 41) * step / 10] * 2, indexing="ij")
    origin = {"w": torch.cat([torch.zeros(1), starts.flatten()])}
    worker = {"w": torch.cat([torch.ones(1), ends.flatten()])}
    found, expected = merge(origin, [worker])["w"], worker["w"]
    zeroed = (found == 0) & (expected.abs() <= 1.001 * step)
    assert (zeroed | ((found - expected).abs() <= 0.501 * step)).all()


@pytest.mark.parametrize("workers", [1, 2, 3, 511, 512, 513, 1000])
@pytest.mark.parametrize("weight", [1, 7, 6000])
def test_the_wire_has_room_for_a_thousand_equal_changes(workers, weight):
    powers = 2.0 ** torch.tensor([-126.0, -40.0, 0.0, 12.0, 127.0])
    below, above = (torch.nextafter(powers, to) for to in (torch.zeros(5), torch.full((5,), 3e38)))
    for most in torch.cat([below, powers, above]):
        origin, state = {"w": torch.zeros(2)}, {"w": torch.stack([most, -most])}
        total = ExactSum(origin, workers, largest_changes(state, origin), weight)
        total.add(state, weight)
        assert total.dtype == torch.int32
        # The sum, and a step for every worker, whose roundings may all go the same way.
        assert int(total.total.abs().max()) * workers + workers < 2**31
        mean = total.mean(total.total * workers, weight * workers, workers)["w"]
        torch.testing.assert_close(mean, state["w"], rtol=2.0**-19, atol=0)


def test_one_worker_comes_back_to_the_last_bit_of_its_largest_entries():
    generator = torch.Generator().manual_seed(0)
    origin = {"w": torch.randn(500, generator=generator)}
    worker = {"w": origin["w"] + torch.randn(500, generator=generator)}
    found, scale = merge(origin, [worker])["w"], float(worker["w"].abs().max())
    torch.testing.assert_close(found, worker["w"], rtol=2.0**-24, atol=scale * 2.0**-28)


def test_a_whole_model_averages_in_every_layout():
    nets = [nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 2)) for _ in range(4)]
    for number, net in enumerate(nets):
        net[1].num_batches_tracked += 10 * number
    states = [tensor_state(net) for net in nets]
    expected = {
        name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]
    }
    plain = merge(states[0], states[1:] + states[:1])
    for name, value in plain.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=2.0**-23, atol=1e-8)
    assert int(plain["1.num_batches_tracked"]) == 15
    turned = [
        {**state, "0.weight": state["0.weight"].contiguous(memory_format=torch.channels_last)}
        for state in states
    ]
    for origin, others in ((turned[0], states), (states[0], turned), (turned[0], turned)):
        again = merge(origin, others[1:] + others[:1])
        assert all(again[name].equal(plain[name]) for name in plain)


def test_integers_are_averaged_without_weights_and_equal_ones_come_back_whatever_their_size():
    huge = torch.tensor([2**60, 2**60 + 1, -(2**62) - 1])
    origin = {"index": huge, "steps": torch.tensor(4), "seen": torch.tensor([True, False, False])}
    states = [
        {"index": huge.clone(), "steps": torch.tensor(steps), "seen": torch.tensor(seen)}
        for steps, seen in ((10, [True, True, False]), (11, [True, True, True]), (15, [False] * 3))
    ]
    assert sum_of(origin, states, [1, 1, 1]).dtype == torch.int32
    for weights in ([1, 1, 1], [5, 1, 1]):
        found = merge(origin, states, weights)
        assert found["index"].equal(huge)
        assert int(found["steps"]) == 12
        assert found["seen"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("change", "dtype"), [(2**31 // 1000, torch.int32), (2**31 // 1000 + 1, torch.int64)]
)
def test_integers_that_would_overflow_travel_wide(change, dtype):
    origin, state = {"n": torch.tensor([5])}, {"n": torch.tensor([5 + change])}
    total = ExactSum(origin, 1000, largest_changes(state, origin))
    total.add(state)
    assert total.dtype == dtype
    assert int(total.total) * 1000 < torch.iinfo(dtype).max
    assert total.mean(total.total * 1000, 1000, 1000)["n"].equal(state["n"])


def test_empty_entries_and_states_pass():
    state = {"none": torch.zeros(0, 3), "one": torch.tensor(2.0), "kept": torch.zeros(0).long()}
    assert largest_changes(state, state) == [0, 0, 0]
    found = merge(state, [state, state])
    assert all(found[name].equal(value) for name, value in state.items())
    assert merge({}, [{}]) == {}


def test_the_smallest_changes_of_float64_pass():
    origin = {"w": torch.tensor([0.0, 1.0], dtype=torch.float64)}
    for least in (5e-324, 1e-310, 1e-290):
        found = merge(origin, [{"w": torch.tensor([least, 1.0], dtype=torch.float64)}] * 3)["w"]
        assert 0 <= float(found[0]) <= 2 * least
        assert float(found[1]) == 1
