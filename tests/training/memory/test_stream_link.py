"""The order of copies on an accelerator, on streams that run as late as they may."""

from __future__ import annotations

import weakref
from collections import deque
from random import Random
from typing import Any

import pytest
import torch
from fake_streams import FakeEvent, FakeStreams
from hypothesis import given
from hypothesis import strategies as st
from planner_pair import Pair, measured
from torch import Tensor, nn

from lipt_cords.training.memory import stream_link
from lipt_cords.training.memory.plan import least_budget
from lipt_cords.training.memory.stream_link import StreamLink

MOVES = (
    "send", "send", "fetch", "get", "get", "settle", "drop", "release", "switch", "run", "late"
)  # fmt: skip


def drawn_bytes(random: Random) -> Tensor:
    return torch.tensor([random.randrange(256) for _ in range(random.randint(1, 9))]).byte()


def any_program(random: Random) -> list[str]:
    """Send, fetch, use and forget in any order; returns what went wrong."""
    streams = FakeStreams(random)
    link = StreamLink(streams, 1e9)  # type: ignore[arg-type]
    sent: list[tuple[Any, Tensor]] = []
    held: list[Tensor] = []
    for _ in range(random.randint(3, 40)):
        move = random.choice(MOVES)
        if move == "send":
            values = drawn_bytes(random)
            whole = streams.here(len(values))
            streams.fill(whole, values)
            sent.append((link.send(whole), values))
            held += [whole] if random.random() < 0.2 else []
            del whole
        elif move == "switch":
            streams.switch()
        elif move == "run":
            streams.run_some()
        elif move == "release":
            held.clear()
        elif sent:
            transfer, values = random.choice(sent)
            if move == "fetch":
                transfer.fetch()
            elif move == "get":
                streams.expect(transfer.get(), values)
            elif move == "late":
                assert transfer.arrival.late() >= 0
            elif move == "settle":
                transfer.settle()
                if not torch.equal(transfer._host, values):
                    streams.violations.append("it is not on the host yet")
            else:
                sent = [one for one in sent if one[0] is not transfer]
            del transfer
    held.clear()
    if random.random() < 0.5:
        for transfer, values in sent:
            streams.expect(transfer.get(), values)
        transfer = None
    sent.clear()
    del link
    streams.run_all()
    return streams.violations


@given(seed=st.integers(0, 2**32))
def test_no_order_of_anything_uses_bytes_before_they_are_there(seed: int) -> None:
    assert any_program(Random(seed)) == []


def test_memory_is_free_once_it_has_left_and_the_host_keeps_its_buffer_for_as_long_as_needed() -> (
    None
):
    streams = FakeStreams(Random(0))
    link = StreamLink(streams, 1e9)  # type: ignore[arg-type]
    whole = streams.here(100)
    storage = weakref.ref(whole.untyped_storage())
    transfer = link.send(whole)
    del whole
    assert storage() is not None
    transfer.settle()
    assert storage() is None
    transfer.fetch()
    buffer = weakref.ref(transfer._host.untyped_storage())
    del transfer
    assert buffer() is not None  # the copy back still reads it
    streams.run_all()
    link.free_finished()
    assert buffer() is None


class Forgetful(deque[Any]):
    """Holds nothing."""

    def append(self, what: Any) -> None:
        pass


def without_wait(stream: str, event: str) -> Any:
    """Streams of a name do not wait for events of others."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        wait = FakeStreams.wait

        def other(self: FakeStreams, waiting: Any, awaited: FakeEvent) -> None:
            if waiting.name not in stream or awaited.stream.name not in event:
                wait(self, waiting, awaited)

        patch.setattr(FakeStreams, "wait", other)

    return plant


def recorded_early(patch: pytest.MonkeyPatch) -> None:
    copy, record = FakeStreams.copy, FakeStreams.record
    later: list[Any] = []

    def hold(self: FakeStreams, *given: Any) -> None:
        later.append(given)

    def early(self: FakeStreams, stream: Any, *, timed: bool = False) -> FakeEvent:
        event = record(self, stream, timed=timed)
        while later:
            copy(self, *later.pop())
        return event

    patch.setattr(FakeStreams, "copy", hold)
    patch.setattr(FakeStreams, "record", early)


def waits_once(patch: pytest.MonkeyPatch) -> None:
    get = stream_link._StreamTransfer.get

    def other(self: Any) -> Tensor:
        return self._here if self._got else get(self)  # type: ignore[no-any-return]

    patch.setattr(stream_link._StreamTransfer, "get", other)


def holds_nothing(name: str) -> Any:
    def plant(patch: pytest.MonkeyPatch) -> None:
        start = StreamLink.__init__

        def other(self: StreamLink, *given: Any) -> None:
            start(self, *given)
            setattr(self, name, Forgetful())

        patch.setattr(StreamLink, "__init__", other)

    return plant


MISTAKES = {
    "the copy out does not wait for the step": without_wait("out", "main side"),
    "the copy back does not wait for what used its memory": without_wait("back", "main side"),
    "the copy back does not wait for the copy out": without_wait("back", "out"),
    "the step does not wait for the copy back": without_wait("main side", "back"),
    "an event is recorded before its copy": recorded_early,
    "a second stream does not wait": waits_once,
    "memory is not held on its way out": holds_nothing("_leaving"),
    "memory is not held on its way back": holds_nothing("_coming"),
    "memory is freed whether or not a copy is over": lambda patch: patch.setattr(
        FakeEvent, "query", lambda event: True
    ),
    "a link that is freed leaves copies alone": lambda patch: patch.setattr(
        stream_link, "_finish", lambda *directions: None
    ),
    "use in another stream is not noted": lambda patch: patch.setattr(
        FakeStreams, "used_in", lambda self, tensor, stream: None
    ),
    "it settles without waiting": lambda patch: patch.setattr(
        FakeEvent, "synchronize", lambda event: setattr(event, "done", event.done or event.timed)
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_put_in_on_purpose_is_caught(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    MISTAKES[mistake](monkeypatch)
    assert any(any_program(Random(seed)) for seed in range(400))


@pytest.mark.parametrize("seed", range(3))
def test_a_planner_on_late_copies_has_the_bits_of_plain_training(seed: int) -> None:
    """The step itself runs at once, every copy as late as it may."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(16, 32), nn.Tanh(), nn.Dropout(0.2), nn.BatchNorm1d(32), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(32, 32), nn.Sigmoid(), nn.Linear(32, 10))

    pair = Pair(build, (32, 16))
    low = least_budget(measured(pair), policy="swap")
    streams = FakeStreams(Random(seed), at_once=True)
    planner = pair.plan(low, policy="swap")
    planner._link = StreamLink(streams, 1e9)  # type: ignore[arg-type]
    for _ in range(5):
        pair.step()
    report = planner.report()
    assert report.steps["guided"] == 3 and report.plan is not None
    assert "swap" in report.plan.decisions.values()
    streams.run_all()
    assert streams.violations == []
