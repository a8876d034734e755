"""Merges in few bits: equal on any ranks, nothing is lost for good, and what must be exact is."""

from __future__ import annotations

import threading
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipt_cords.warmstart.merge.codecs import Member, Wire, merge_members
from lipt_cords.warmstart.merge.fixed_point import largest_changes
from lipt_cords.warmstart.merge.quantised import NOTHING, Blocks, Width, _bound_codes, _bounds
from lipt_cords.warmstart.ranks.exchange import Exchange
from lipt_cords.warmstart.team import whole_weights
from lipt_cords.warmstart.warm_start import LiPTWarmStart

CODECS = {"int8": 127, "int4": 7}


class Together:
    """Ranks as threads, which exchange through a list."""

    def __init__(self, size):
        self.size, self.barrier = size, threading.Barrier(size, timeout=60)
        self.said = [None] * size

    def share(self, rank, value):
        self.said[rank] = value
        self.barrier.wait()
        found = list(self.said)
        self.barrier.wait()
        return found


class ThreadExchange(Exchange):
    """The collectives of one of these threads."""

    def __init__(self, together, rank):
        super().__init__(rank, range(together.size), torch.device("cpu"))
        self.together = together

    def sum(self, flat, dtype):
        said = self.together.share(self.rank, flat.to(dtype))
        return torch.stack(said).sum(0, dtype=torch.int64)

    def max(self, flat):
        return torch.stack(self.together.share(self.rank, flat.to(torch.int32))).amax(0).long()

    def all_to_all(self, parts, sizes):
        assert [len(part) for part in parts] == list(sizes[self.rank])
        assert all(part.dtype == torch.uint8 for part in parts)
        self.sent_bytes += sum(map(len, parts)) - len(parts[self.rank])
        return [part[self.rank] for part in self.together.share(self.rank, list(parts))]


class ThreadRanks:
    """What a merge needs of the ranks."""

    def __init__(self, together, rank):
        self.exchanged = ThreadExchange(together, rank)

    def exchange(self, work, step):
        return work(self.exchanged)


def merge(codec, origin, states, weights, size, residuals, parameters, owners=None):
    """Merge on so many ranks: the average and the residuals; other owners were lost."""
    together, outcome = Together(size), [None] * size
    weights = whole_weights(dict(enumerate(weights)))
    owners = owners or {worker: worker % size for worker in weights}
    largest = torch.stack([largest_changes(state, origin) for state in states]).amax(0)

    def run(rank):
        ranks = ThreadRanks(together, rank)
        wire = Wire(
            ranks, weights, owners, largest, parameters=parameters, residuals=residuals,
        )  # fmt: skip
        mine = [Member(w, weights[w], lambda w=w: states[w]) for w in weights if owners[w] == rank]
        average = merge_members(codec, origin, mine, wire)
        outcome[rank] = average, wire.kept

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert all(outcome)
    return [one[0] for one in outcome], {k: v for one in outcome for k, v in one[1].items()}


def same(one, two):
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype
        and one[name].numpy().tobytes() == two[name].numpy().tobytes()
        for name in one
    )


@st.composite
def crews(draw):
    """A start with matrices, a vector, statistics and a counter; workers that moved from it."""
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(1, 70))
    scale = 10.0 ** draw(st.integers(-12, 6))
    origin = {
        "w": torch.randn(rows, columns, generator=draws),
        "b": torch.randn(draw(st.integers(1, 9)), generator=draws),
        "mean": torch.randn(3, generator=draws),
        "var": torch.rand(3, generator=draws),
        "n": torch.tensor(7),
    }
    states = []
    for _ in range(draw(st.integers(1, 7))):
        moved = {
            name: value + scale * torch.randn(value.shape, generator=draws)
            for name, value in origin.items()
            if value.is_floating_point()
        }
        still = torch.rand(origin["w"].shape, generator=draws) < draw(st.sampled_from([0, 0.5, 1]))
        moved["w"] = torch.where(still, origin["w"], moved["w"])
        states.append(moved | {"n": torch.tensor(int(torch.randint(9, (), generator=draws)))})
    weights = draw(
        st.one_of(
            st.just([1] * len(states)),
            st.lists(st.integers(1, 10**6), min_size=len(states), max_size=len(states)),
        )
    )
    return origin, states, weights


@settings(max_examples=25)
@given(crews(), st.sampled_from(list(CODECS)))
def test_merges_and_residuals_have_the_same_bits_on_any_number_of_ranks(crew, codec):
    origin, states, weights = crew
    parameters = ("w", "b")
    (first,), rests = merge(codec, origin, states, weights, 1, {}, parameters)
    (second,), again = merge(codec, origin, states[::-1], weights, 1, rests, parameters)
    for size in (2, 3, 4):
        averages, there = merge(codec, origin, states, weights, size, {}, parameters)
        assert all(same(average, first) for average in averages)
        assert rests.keys() == there.keys()
        assert all(same(rests[worker], there[worker]) for worker in rests)
    averages, there = merge(codec, origin, states[::-1], weights, 3, rests, parameters)
    assert all(same(average, second) for average in averages)
    assert all(same(again[worker], there[worker]) for worker in again)


@settings(max_examples=40)
@given(crews(), st.sampled_from(list(CODECS)))
def test_what_is_not_sent_stays_in_the_residuals(crew, codec):
    origin, states, weights = crew
    parts = whole_weights(dict(enumerate(weights)))
    heaviest, total = max(parts.values()), sum(parts.values())
    (average,), rests = merge(codec, origin, states, weights, 1, {}, ("w", "b"))
    for name in [name for name in ("w", "b") if origin[name].numel()]:
        start = origin[name].double()
        shares = [parts[w] / heaviest for w in parts]
        changes = [
            share * (state[name].double() - start)
            for share, state in zip(shares, states, strict=True)
        ]
        wanted = sum(changes)
        sent = (average[name].double() - start) * (total / heaviest)
        left = sum(rests[worker][name].double() for worker in rests)
        size = sum(change.abs() for change in changes) + start.abs() * (total / heaviest)
        assert torch.all((sent + left - wanted).abs() <= 1e-5 * size + 1e-30)
        step = max(float(change.abs().max()) for change in changes) / CODECS[codec]
        bound = 1.07 * step * (len(states) / 2 + len(states) / 2 + 0.5)  # both roundings
        assert float((sent - wanted).abs().max()) <= bound + 1e-6 * float(size.max())


@settings(max_examples=20)
@given(crews(), st.sampled_from(list(CODECS)))
def test_buffers_and_integers_are_those_of_exact_and_still_entries_stay(crew, codec):
    origin, states, weights = crew
    (average,), _ = merge(codec, origin, states, weights, 1, {}, ("w", "b"))
    (exact,), _ = merge("exact", origin, states, weights, 1, {}, ())
    assert same(
        {n: average[n] for n in ("mean", "var", "n")}, {n: exact[n] for n in ("mean", "var", "n")}
    )
    still = torch.stack([state["w"] == origin["w"] for state in states]).all(0)
    assert torch.equal(average["w"][still], origin["w"][still])
    assert list(average) == list(origin)


def test_over_many_merges_the_residuals_make_up_for_the_coarse_grid():
    """A change far below a step of int4 arrives all the same, some merges later."""
    origin = {"w": torch.zeros(2)}
    rests: dict[int, dict[str, torch.Tensor]] = {}
    moved = torch.tensor([1.0, 0.01])
    total = torch.zeros(2)
    for _ in range(40):
        (average,), rests = merge("int4", origin, [{"w": moved}] * 2, [1, 1], 1, rests, ("w",))
        total += average["w"]
    assert torch.allclose(total / 40, moved, rtol=0, atol=0.006)


@pytest.mark.parametrize("codec", list(CODECS))
def test_workers_of_a_lost_rank_are_not_in_the_merge(codec):
    draws = torch.Generator().manual_seed(1)
    origin = {"w": torch.randn(9, 40, generator=draws), "n": torch.tensor(1)}
    states = [
        {"w": origin["w"] + torch.randn(9, 40, generator=draws), "n": torch.tensor(worker)}
        for worker in range(5)
    ]
    owners = {0: 0, 1: 1, 2: 2, 3: 0, 4: 2}  # of which rank 2 is gone
    averages, rests = merge(codec, origin, states, [1] * 5, 2, {}, ("w",), owners)
    here = [states[worker] for worker in (0, 1, 3)]
    (expected,), _ = merge(codec, origin, here, [1] * 3, 1, {}, ("w",))
    assert rests.keys() == {0, 1, 3}
    assert all(torch.equal(average["w"], expected["w"]) for average in averages)
    assert int(averages[0]["n"]) == 1  # the mean of 0, 1 and 3, rounded


def test_a_net_without_parameters_or_with_empty_ones_merges():
    origin = {"w": torch.zeros(0, 3), "n": torch.tensor(2)}
    states = [{"w": torch.zeros(0, 3), "n": torch.tensor(4)}] * 3
    averages, _ = merge("int8", origin, states, [1, 1, 1], 2, {}, ("w",))
    assert all(int(average["n"]) == 4 for average in averages)


@given(st.lists(st.integers(-7, 7), max_size=9), st.sampled_from([7, 100, 127, 128, 32767, 32768]))
def test_packed_integers_come_back(values, largest):
    width = Width.of(largest)
    codes = torch.tensor([value * largest // 7 for value in values], dtype=torch.float64)
    packed = width.pack(codes)
    assert packed.dtype == torch.uint8
    assert len(packed) == width.size(len(values))
    assert torch.equal(width.unpack(packed, len(values)), codes.long())


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=6))
def test_bounds_are_close_above_and_in_order(values):
    given_values = torch.tensor(values, dtype=torch.float64)
    codes = _bound_codes(given_values)
    assert torch.equal(codes, codes.to(torch.int16).long())
    assert torch.equal(codes.sort().values, codes[given_values.argsort(stable=True)])
    for value, code, bound in zip(values, codes.tolist(), _bounds(codes).tolist(), strict=True):
        if value == 0:
            assert code == NOTHING
        elif value > 2.0**-990:
            assert 1 <= Fraction(bound) / Fraction(value) <= 1 + Fraction(1, 16)


def test_no_step_reaches_over_two_entries():
    blocks = Blocks.of({"a": torch.zeros(300), "b": torch.zeros(1), "c": torch.zeros(128)})
    assert blocks.lengths.tolist() == [128, 128, 44, 1, 128]
    parts = blocks.parts(3)
    assert [part.entries for part in parts] == [128, 172, 129]
    assert parts[2].where.stop == 429


class Squares(nn.Module):
    """A net whose merge has an integer buffer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("codec", list(CODECS))
def test_the_report_says_what_is_sent_in_full(codec):
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.arange(32) % 2)
    result = LiPTWarmStart(
        codec=codec, num_workers=2, local_steps=4, rounds=2, common_steps=0, batch_size=8,
        progress=False,
    ).fit(Squares(), data)  # fmt: skip
    said = f"codec {codec}: the 17 entries of buffers and integers are sent in full"
    assert result.report.notes.count(said) == 1
