"""The way to the host and back, on a simulated device: bits, memory, order and pace."""

from __future__ import annotations

import threading
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipt_cords.training.memory import link as link_module
from lipt_cords.training.memory.link import DEFAULT_BANDWIDTH, PacedLink, build_link
from lipt_cords.training.memory.storages import whole_storage
from lipt_cords.training.memory.transfer import Arrival

FAST = 1e12


def drawn_bytes(size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (size,), dtype=torch.uint8, generator=generator)


class Clock:
    """A clock that stands still until a sleep."""

    def __init__(self) -> None:
        self.now, self.lock = 1000.0, threading.Lock()

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        with self.lock:
            self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(link_module, "time", clock)
    return clock


def settled(link: PacedLink) -> None:
    """Wait until the link's threads have let go of what they did last."""
    for direction in (link.out, link.back):
        direction.submit(lambda: None).result()


@pytest.mark.parametrize("size", [0, 1, 3, 4096, 1_000_003])
def test_what_comes_back_has_the_bits_of_what_left(size):
    transfer = PacedLink(FAST).send(drawn_bytes(size))
    transfer.settle()
    assert transfer.get().equal(drawn_bytes(size))
    assert transfer.get() is transfer.get()


def test_a_whole_storage_goes_and_its_memory_is_free_once_it_has_left():
    tensor = torch.arange(1000.0)[10:20]
    expected = whole_storage(tensor).clone()
    storage = weakref.ref(tensor.untyped_storage())
    transfer = PacedLink(FAST).send(whole_storage(tensor))
    assert storage() is not None
    del tensor
    transfer.settle()
    assert storage() is None
    assert transfer.get().equal(expected)


def test_it_stays_for_those_that_hold_it():
    tensor = drawn_bytes(100)
    transfer = PacedLink(FAST).send(whole_storage(tensor))
    transfer.settle()
    came = transfer.get()
    assert came.equal(tensor) and came.data_ptr() != tensor.data_ptr()


def test_its_memory_is_free_after_its_last_use():
    link = PacedLink(FAST)
    transfer = link.send(drawn_bytes(100))
    transfer.settle()
    came = weakref.ref(transfer.get().untyped_storage())
    settled(link)
    assert came() is not None
    del transfer
    settled(link)
    assert came() is None


class Gate:
    """Keeps a direction busy until it is opened."""

    def __init__(self, direction) -> None:
        self.event = threading.Event()
        self.passed = direction.submit(self.event.wait)

    def open(self) -> None:
        self.event.set()
        self.passed.result()


class Counting(PacedLink):
    """A link that counts the buffers of its host."""

    def __init__(self, bandwidth):
        super().__init__(bandwidth)
        self.taken = []

    def buffer(self, size):
        self.taken.append(size)
        return super().buffer(size)


def test_what_is_wanted_before_its_turn_stays_and_is_not_copied():
    link = Counting(FAST)
    gate = Gate(link.out)
    whole = drawn_bytes(100)
    place = whole.data_ptr()
    transfer = link.send(whole)
    del whole
    transfer.fetch()
    assert transfer.get().data_ptr() == place and transfer.get().equal(drawn_bytes(100))
    gate.open()
    transfer.settle()
    assert transfer.get().data_ptr() == place and transfer.get().equal(drawn_bytes(100))
    assert transfer.arrival.late() == 0 and link.taken == []
    other = link.send(drawn_bytes(100, seed=1))  # the direction goes on after it
    other.settle()
    assert other.get().equal(drawn_bytes(100, seed=1)) and link.taken == [100]


def test_what_is_wanted_on_its_way_stays(monkeypatch):
    link, asked = PacedLink(1.0), threading.Event()

    def sleep(seconds):
        transfer.fetch()  # the copy is made, and its time is not over
        asked.set()

    fake = SimpleNamespace(perf_counter=time.perf_counter, sleep=sleep)
    monkeypatch.setattr(link_module, "time", fake)
    gate = Gate(link.out)
    whole = drawn_bytes(100)
    place = whole.data_ptr()
    transfer = link.send(whole)
    del whole
    gate.open()
    transfer.settle()
    assert asked.is_set()
    assert transfer.get().data_ptr() == place and transfer.get().equal(drawn_bytes(100))


def test_transfers_go_in_the_order_in_which_they_are_asked_for():
    link = PacedLink(FAST)
    gate = Gate(link.out)
    storages = [drawn_bytes(10, seed) for seed in range(50)]
    awaited = [weakref.ref(one.untyped_storage()) for one in storages]
    sent = [link.send(one) for one in storages]
    del storages
    assert all(one() is not None for one in awaited)
    gate.open()
    for number in (0, 20, 49):
        sent[number].settle()
        assert all(one() is None for one in awaited[: number + 1])
    gate = Gate(link.back)
    for one in reversed(sent):
        one.fetch()
    gate.open()
    assert sent[0].get().equal(drawn_bytes(10))  # the last one that was asked for
    for seed, one in enumerate(sent[1:], 1):  # which came before it, and wait for nothing
        assert one.get().equal(drawn_bytes(10, seed)) and one.arrival.late() == 0


def test_a_transfer_takes_its_size_over_the_bandwidth(clock):
    link = PacedLink(100.0)
    transfer = link.send(drawn_bytes(250))
    transfer.settle()
    assert clock.now == pytest.approx(1002.5)
    transfer.get()
    assert clock.now == pytest.approx(1005.0)


def test_one_transfer_at_a_time_and_many_small_ones_take_what_they_take_together(clock):
    link = PacedLink(1e6)
    sent = [link.send(drawn_bytes(20, seed)) for seed in range(2000)]  # 20 microseconds each
    for one in sent:
        one.settle()
    assert clock.now == pytest.approx(1000.04, abs=1.1e-4)
    for seed, one in enumerate(sent):
        one.fetch()
        assert one.get().equal(drawn_bytes(20, seed))
    assert clock.now == pytest.approx(1000.08, abs=2.2e-4)


def test_an_idle_link_saves_nothing_up(clock):
    link = PacedLink(100.0)
    link.send(drawn_bytes(100)).settle()
    clock.now += 50
    link.send(drawn_bytes(100)).settle()
    assert clock.now == pytest.approx(1052.0)


def test_the_two_directions_do_not_wait_for_each_other(clock):
    link = PacedLink(100.0)
    first = link.send(drawn_bytes(100))
    first.settle()
    gate = Gate(link.out)
    waiting = link.send(drawn_bytes(100, seed=1))
    assert first.get().equal(drawn_bytes(100))
    gate.open()
    waiting.settle()
    assert clock.now == pytest.approx(1003.0)


def test_on_a_real_clock_transfers_are_no_faster_than_the_link():
    link, started = PacedLink(1e6), time.perf_counter()
    sent = [link.send(drawn_bytes(1000)) for _ in range(50)]
    for one in sent:
        one.settle()
    assert time.perf_counter() - started >= 0.05 - 1.1e-4
    started = time.perf_counter()
    for one in sent:
        one.fetch()
    for one in sent:
        one.get()
    assert time.perf_counter() - started >= 0.05 - 1.1e-4


def test_what_is_waited_for_is_late_by_as_long(clock):
    transfer = PacedLink(FAST).send(drawn_bytes(10))
    transfer.settle()
    transfer.fetch()
    transfer._coming.result()
    takes = iter([2.0, 3.0])
    transfer._coming = SimpleNamespace(done=lambda: False, result=lambda: clock.sleep(next(takes)))
    transfer.get()
    assert transfer.arrival.late() == 2.0
    transfer.get()
    assert transfer.arrival.late() == 2.0  # as it was when it came


def test_an_arrival_holds_none_of_the_memory():
    link = PacedLink(FAST)
    transfer = link.send(drawn_bytes(100))
    transfer.settle()
    transfer.fetch()
    settled(link)
    arrival, storage = transfer.arrival, weakref.ref(transfer.get().untyped_storage())
    del transfer
    settled(link)
    assert storage() is None and arrival.late() == 0
    assert Arrival().late() == 0


def test_host_memory_is_used_again():
    link = PacedLink(FAST)
    for seed in range(5):
        transfer = link.send(drawn_bytes(64, seed))
        transfer.settle()
        assert transfer.get().equal(drawn_bytes(64, seed))
        settled(link)
        del transfer
        settled(link)
        host = link.buffer(64)
        assert host.equal(drawn_bytes(64, seed))  # where the last one was
        link.spare(host)
    assert link.buffer(64) is host and link.buffer(64) is not host


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    moves=st.lists(
        st.tuples(st.sampled_from(["fetch", "get", "settle"]), st.integers(0, 7)), max_size=30
    ),
)
def test_whatever_is_asked_for_when_bits_stay_what_they_were(sizes, moves):
    link = PacedLink(1e7)
    sent = [link.send(drawn_bytes(size, seed)) for seed, size in enumerate(sizes)]
    for move, place in moves:
        number = place % len(sent)
        found = getattr(sent[number], move)()
        if move == "get":
            assert found.equal(drawn_bytes(sizes[number], number))
    for number, one in enumerate(sent):
        assert one.get().equal(drawn_bytes(sizes[number], number))


def test_links_of_devices():
    link = build_link(torch.device("cpu"), None)
    assert isinstance(link, PacedLink) and link.bandwidth == DEFAULT_BANDWIDTH
    assert build_link(torch.device("cpu"), 5e6).bandwidth == 5e6
    with pytest.raises(ValueError, match="received a model on meta"):
        build_link(torch.device("meta"), None)
