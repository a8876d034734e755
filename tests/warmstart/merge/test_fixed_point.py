"""The fixed-point sum: the same bits in any order, and never off by more than it promises."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipt_cords.models.state import tensor_state
from lipt_cords.warmstart.merge.average import average_weights
from lipt_cords.warmstart.merge.fixed_point import NO_CHANGE, FixedPointSum, largest_changes
from lipt_cords.warmstart.team import whole_weights

VALUES = st.one_of(
    st.just(0.0),
    st.floats(-8, 8, width=32),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.sampled_from([2.0**e for e in range(-40, 4)]),
)


@st.composite
def crews(draw, dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16)):
    """A start, its workers, and their weights; entries are often left alone or cleared.

    Each entry of ``w`` is a slice of its own, or all are in one.
    """
    dtype, count = draw(st.sampled_from(dtypes)), draw(st.integers(1, 9))
    shape = draw(st.sampled_from([(-1,), (1, -1), (-1, 1, 1)]))
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
    values = [torch.tensor(w, dtype=dtype).view(shape) for w in (start, *workers)]
    states = [{"w": value, "n": torch.tensor(len(start))} for value in values[1:]]
    return {"w": values[0], "n": torch.tensor(0)}, states, weights


def sum_of(origin, states, weights, wide=False):
    largest = torch.stack([largest_changes(state, origin) for state in states]).amax(0)
    return FixedPointSum(origin, len(states), largest, max(weights), wide=wide)


def merge(origin, states, weights=None, order=None, ranks=1, wide=False):
    """Deal the workers to ranks in an order, and add their sums as they travel on the wire."""
    weights = weights or [1] * len(states)
    parts = [sum_of(origin, states, weights, wide) for _ in range(ranks)]
    for place, worker in enumerate(order or range(len(states))):
        parts[place % ranks].add(states[worker], weights[worker])
    total = torch.stack([part.total.to(part.dtype) for part in parts]).sum(0, dtype=parts[0].dtype)
    return parts[0].mean(total.long(), sum(weights), len(states))


def half_a_step(origin, states, weights, name="w"):
    """Half a step of the grid of each of an entry's slices, flat: for every element its own.

    Below the next power of two of the slice's largest change, times the largest weight, as many
    bits as are promised.
    """
    bits = (61 if origin[name].dtype == torch.float64 else 30) - math.ceil(math.log2(len(states)))
    changes = torch.stack([s[name].double() - origin[name].double() for s in states]).abs().amax(0)
    halves = []
    for part in changes:
        mantissa, exponent = math.frexp(float(part.max()))
        most = 2.0 ** (exponent - (mantissa == 0.5))
        halves += [most * max(weights) * 2.0 ** -(bits + 1)] * part.numel()
    return halves


@settings(max_examples=150)
@given(crew=crews(), data=st.data())
def test_any_order_on_any_ranks_gives_the_same_bits(crew, data):
    origin, states, weights = crew
    expected = merge(origin, states, weights)
    order = data.draw(st.permutations(range(len(states))))
    found = merge(origin, states, weights, order, ranks=data.draw(st.integers(1, 5)))
    assert all(found[name].equal(expected[name]) for name in origin)
    assert [value.dtype for value in found.values()] == [v.dtype for v in origin.values()]


@settings(max_examples=150)
@given(crew=crews())
def test_the_mean_is_off_by_half_a_step_at_most(crew):
    origin, states, weights = crew
    found, total = merge(origin, states, weights)["w"], sum(weights)
    # Each of K terms is rounded by half a step, and their sum divided by the weights' sum W.
    halves = half_a_step(origin, states, weights)
    finfo = torch.finfo(found.dtype)
    for entry, got in enumerate(found.flatten().tolist()):
        parts = [Fraction(float(state["w"].flatten()[entry])) for state in states]
        exact = sum(w * part for w, part in zip(weights, parts, strict=True)) / total
        largest = max(abs(float(part)) for part in (*parts, origin["w"].flatten()[entry]))
        rounding = 0.501 * finfo.eps * abs(float(exact)) + finfo.smallest_normal * finfo.eps
        rounding += 2.0**-50 * largest * max(weights) * len(states) / total  # of float64
        error = abs(float(Fraction(got) - exact))
        # What is at most half a step is taken for the zero that all workers may have had.
        zeroed = 1.0002 * halves[entry] if got == 0 else 0
        assert error <= halves[entry] * len(states) / total + zeroed + rounding


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 10**7), min_size=1, max_size=16),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    change=st.sampled_from([1e-6, 0.01, 1.0, 1e3]),
    seed=st.integers(0, 10**6),
    ranks=st.integers(1, 3),
)
def test_a_weighted_soup_is_the_mean_in_float64_whatever_the_sizes(
    sizes, dtype, change, seed, ranks
):
    draws = torch.Generator().manual_seed(seed)
    shape = (5, 40)
    start = torch.randn(shape, generator=draws) * 0.1
    # Changes of a row differ by factors of a million, and some entries stay.
    moves = [
        change * torch.randn(shape, generator=draws) * torch.rand(shape, generator=draws) ** 6
        * (torch.rand(shape, generator=draws) < 0.9)
        for _ in sizes
    ]  # fmt: skip
    origin = {"w": start.to(dtype), "n": torch.tensor(7)}
    states = [{"w": (start + move).to(dtype), "n": torch.tensor(9)} for move in moves]
    weights = whole_weights(dict(enumerate(sizes)))
    found = merge(origin, states, list(weights.values()), ranks=ranks, wide=True)
    pairs = list(zip(sizes, states, strict=True))
    exact = sum(size * state["w"].double() for size, state in pairs) / sum(sizes)
    by_hand = average_weights([state for _, state in pairs], sizes)["w"]
    for mean in (found["w"], by_hand):
        assert mean.dtype == dtype
        wanted = exact.to(dtype)
        step = torch.nextafter(wanted.abs(), torch.tensor(torch.inf, dtype=dtype)) - wanted.abs()
        # Where terms cancel, float64 itself is off by its rounding of the terms.
        rounding = 2.0**-50 * max(float(state["w"].abs().max()) for state in states)
        assert ((mean.double() - exact).abs() <= 2 * step.double() + rounding).all()
    assert int(found["n"]) == 9


@settings(max_examples=150)
@given(crew=crews(), stays=VALUES, gone=VALUES)
def test_what_no_worker_changed_stays_and_what_all_cleared_is_zero(crew, stays, gone):
    origin, states, weights = crew
    dtype = origin["w"].dtype

    def with_two_more(state, *values):
        """Beside the others, in their slice if they share one."""
        flat = torch.cat([state["w"].flatten(), torch.tensor(values, dtype=dtype)])
        return state | {"w": flat[None] if state["w"].ndim == 2 else flat}

    origin = with_two_more(origin, stays, gone)
    states = [with_two_more(state, stays, 0.0) for state in states]
    found = merge(origin, states, weights)["w"].flatten()
    start = origin["w"].flatten()
    assert found[-2].equal(start[-2])
    # Less than half a step cannot be told from what stayed.
    half = half_a_step(origin, states, weights)[-1]
    assert float(found[-1]) == 0 or abs(float(start[-1])) <= half


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [[1, 1, 1], [5, 1, 9]])
def test_a_layer_that_all_pruned_is_zero(dtype, weights):
    generator = torch.Generator().manual_seed(0)
    origin = {"w": torch.randn(2, 1500, generator=generator, dtype=dtype) * 0.1}
    origin["w"][0, 0] = 3.0
    cleared = {"w": torch.zeros(2, 1500, dtype=dtype)}
    assert int(merge(origin, [cleared] * 3, weights)["w"].count_nonzero()) == 0


def test_only_what_is_within_a_step_of_zero_is_taken_for_zero():
    step = 2.0**-30  # of a slice whose largest change is 1
    starts, ends = torch.meshgrid(*[torch.arange(-40, 41) * step / 10] * 2, indexing="ij")
    origin = {"w": torch.cat([torch.zeros(1), starts.flatten()])[None]}
    worker = {"w": torch.cat([torch.ones(1), ends.flatten()])[None]}
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
        total = FixedPointSum(origin, workers, largest_changes(state, origin), weight)
        total.add(state, weight)
        assert total.dtype == torch.int32
        # The sum, and a step for every worker, whose roundings may all go the same way.
        assert int(total.total.abs().max()) * workers + workers < 2**31
        mean = total.mean(total.total * workers, weight * workers, workers)["w"]
        torch.testing.assert_close(mean, state["w"], rtol=2.0**-19, atol=0)


def test_one_worker_comes_back_to_the_last_bit_of_its_largest_entries():
    generator = torch.Generator().manual_seed(0)
    origin = {"w": torch.randn(1, 500, generator=generator)}
    worker = {"w": origin["w"] + torch.randn(1, 500, generator=generator)}
    found, scale = merge(origin, [worker])["w"], float(worker["w"].abs().max())
    torch.testing.assert_close(found, worker["w"], rtol=2.0**-24, atol=scale * 2.0**-28)


@pytest.mark.parametrize("shape", [(40,), (40, 3), (40, 2, 3, 3), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slices_of_very_different_scales_are_all_exact(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-9, 12, 40, dtype=torch.float64) if shape else torch.tensor(1e-9)
    scales = scales.view([40] + [1] * (len(shape) - 1) if shape else [])
    draws = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    origin, *states = [{"w": (draw * scales).to(dtype)} for draw in draws]
    weights = [3, 1, 2, 5, 1]
    assert sum_of(origin, states, weights).dtype == (
        torch.int32 if dtype == torch.float32 else torch.int64
    )
    found = merge(origin, states, weights)["w"].double()
    expected = sum(w * s["w"].double() for w, s in zip(weights, states, strict=True)) / 12
    changes = torch.stack([s["w"].double() - origin["w"].double() for s in states]).abs().amax(0)
    largest = changes.flatten(1).amax(1).view_as(scales) if len(shape) > 1 else changes
    bits = 30 if dtype == torch.float32 else 50  # and of the sums in float64
    rounding = torch.finfo(dtype).eps * expected.abs()
    assert ((found - expected).abs() <= 2.0 ** (4 - bits) * largest + rounding).all()


def test_statistics_of_raw_features_come_back():
    origin = {"running_var": torch.ones(3)}
    ends = torch.tensor([[1e-4, 1.0, 1e12], [3e-4, 2.0, 3e12]])
    found = merge(origin, [{"running_var": end} for end in ends])["running_var"]
    torch.testing.assert_close(found, torch.tensor([2e-4, 1.5, 2e12]), rtol=1e-5, atol=0)


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
    ("change", "dtype"),
    [(2**21, torch.int32), (2**21 + 1, torch.int64)],  # bounds: 2^21, 2^22
)
def test_integers_that_would_overflow_travel_wide(change, dtype):
    origin, state = {"n": torch.tensor([5])}, {"n": torch.tensor([5 + change])}
    total = FixedPointSum(origin, 1000, largest_changes(state, origin))
    total.add(state)
    assert total.dtype == dtype
    assert int(total.total) * 1000 < torch.iinfo(dtype).max
    assert total.mean(total.total * 1000, 1000, 1000)["n"].equal(state["n"])


INT64 = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=150)
@given(data=st.data(), count=st.integers(1, 9), near=st.booleans())
def test_integers_of_any_size_have_their_rounded_mean(data, count, near):
    starts = data.draw(st.lists(INT64, min_size=1, max_size=4))
    close = [st.integers(max(at - 5, -(2**63)), min(at + 5, 2**63 - 1)) for at in starts]
    row = st.tuples(*(close if near else [INT64] * len(starts)))
    ends = data.draw(st.lists(row, min_size=count, max_size=count))
    origin = {"n": torch.tensor(starts), "w": torch.zeros(2)}
    states = [{"n": torch.tensor(end), "w": torch.ones(2)} for end in ends]
    found = merge(origin, states, ranks=data.draw(st.integers(1, 4)))
    changes = zip(starts, zip(*ends, strict=True), strict=True)
    expected = [at + round(Fraction(sum(column) - count * at, count)) for at, column in changes]
    assert found["n"].tolist() == expected
    assert found["w"].equal(torch.ones(2))


def test_integers_whose_sum_is_beyond_int64_come_back():
    origin = {"key": torch.tensor([0, -(2**62)]), "steps": torch.tensor(7)}
    state = {"key": torch.tensor([2**62 + 1, 2**62 + 3]), "steps": torch.tensor(9)}
    assert sum_of(origin, [state] * 3, [1] * 3).dtype == torch.int64
    found = merge(origin, [state] * 3, ranks=2)
    assert all(found[name].equal(value) for name, value in state.items())


def test_empty_entries_and_states_pass():
    state = {"none": torch.zeros(0, 3), "one": torch.tensor(2.0), "kept": torch.zeros(0).long()}
    assert largest_changes(state, state).tolist() == [NO_CHANGE]
    found = merge(state, [state, state])
    assert all(found[name].equal(value) for name, value in state.items())
    assert merge({}, [{}]) == {}


def test_the_smallest_changes_of_float64_pass():
    origin = {"w": torch.tensor([0.0, 1.0], dtype=torch.float64)}
    for least in (5e-324, 1e-310, 1e-290):
        found = merge(origin, [{"w": torch.tensor([least, 1.0], dtype=torch.float64)}] * 3)["w"]
        assert 0 <= float(found[0]) <= 2 * least
        assert float(found[1]) == 1


def test_a_clone_of_a_sum_is_independent():
    origin = {"w": torch.zeros(2)}
    one = FixedPointSum(origin, 2, largest_changes({"w": torch.ones(2)}, origin))
    one.add({"w": torch.ones(2)})
    two = one.clone()
    two.add({"w": torch.ones(2)})
    assert one.mean(one.total, 1, 1)["w"].tolist() == [1, 1]
    assert two.mean(two.total, 2, 2)["w"].tolist() == [1, 1]
    assert two.mean(two.total, 1, 2)["w"].tolist() == [2, 2]
