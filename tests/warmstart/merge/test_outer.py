"""The outer step against Nesterov momentum written out, and what it must leave alone."""

from __future__ import annotations

import pytest
import torch

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.outer import next_start

TRAINED = ["weight", "bias"]


def state(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 2, generator=generator, dtype=dtype),
        "running_mean": torch.randn(2, generator=generator, dtype=dtype),
        "bias": torch.randn(2, generator=generator).to(torch.bfloat16),
        "num_batches_tracked": torch.tensor(seed),
    }


class Outer:
    """An outer step with what it remembers."""

    def __init__(self, **options):
        self.config, self.velocity = WarmStartConfig(**options), {}

    def step(self, start, average):
        return next_start(start, average, self.velocity, trained=TRAINED, config=self.config)


def optimizer(kind="nesterov", **options):
    given = {f"outer_{name}": value for name, value in options.items()}
    return Outer(outer=kind, **given)


def by_hand(start, average, velocity, lr, momentum):
    """v <- m v + (start - average); start <- start - lr (start - average + m v)."""
    gradient = start.double() - average.double()
    velocity = momentum * velocity + gradient
    moved = start.double() - lr * (gradient + momentum * velocity)
    return moved.to(start.dtype), velocity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.0), (0.3, 0.5), (1.2, 0.0)])
@pytest.mark.parametrize("resumed_at", [None, 1, 3])
def test_several_steps_are_nesterov_written_out(dtype, lr, momentum, resumed_at):
    outer, start = optimizer(lr=lr, momentum=momentum), state(0, dtype)
    expected = {name: start[name].clone() for name in TRAINED}
    velocity = {name: torch.zeros_like(expected[name], dtype=torch.float64) for name in TRAINED}
    for round in range(5):
        if round == resumed_at:
            kept = {name: value.clone() for name, value in outer.velocity.items()}
            outer = optimizer(lr=lr, momentum=momentum)
            outer.velocity = kept
        average = state(round + 1, dtype)
        start = outer.step(start, average)
        for name in TRAINED:
            expected[name], velocity[name] = by_hand(
                expected[name], average[name], velocity[name], lr, momentum
            )
            torch.testing.assert_close(start[name], expected[name])
            if momentum:
                torch.testing.assert_close(outer.velocity[name], velocity[name])
        assert start["running_mean"].equal(average["running_mean"])
        assert start["num_batches_tracked"].equal(average["num_batches_tracked"])


def test_a_resumed_run_takes_the_same_steps_to_the_last_bit():
    through, start = optimizer(), state(0)
    for seed in (1, 2):
        start = through.step(start, state(seed))
    again = optimizer()
    again.velocity = {name: value.clone() for name, value in through.velocity.items()}
    one, two = through.step(start, state(3)), again.step(start, state(3))
    assert all(one[name].equal(two[name]) for name in one)
    assert not all(one[name].equal(value) for name, value in optimizer().step(start, one).items())


def test_plain_averaging_returns_the_average_and_keeps_no_velocity():
    outer, average = optimizer("average"), state(1)
    stepped = outer.step(state(0), average)
    assert list(stepped) == list(average)
    assert all(stepped[name].equal(average[name]) for name in average)
    assert outer.velocity == {}


def test_a_whole_step_without_momentum_is_the_average():
    average = state(1)
    stepped = optimizer(lr=1.0, momentum=0.0).step(state(0), average)
    # In float64, start - (start - average) is off by two roundings of the larger one.
    for name, value in average.items():
        torch.testing.assert_close(stepped[name], value, rtol=2.0**-24, atol=2.0**-50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_and_average_are_left_as_they_are(dtype):
    start, average = state(0, dtype), state(1, dtype)
    outer = optimizer()
    for _ in range(2):
        outer.step(start, average)
    for given, seed in ((start, 0), (average, 1)):
        assert all(value.equal(given[name]) for name, value in state(seed, dtype).items())


def test_what_does_not_move_stays_to_the_last_bit():
    start = state(0)
    outer = optimizer()
    for _ in range(3):
        assert all(value.equal(start[name]) for name, value in outer.step(start, start).items())


def test_a_memory_of_zeros_is_as_good_as_none_and_holds_the_trained_entries():
    fresh, resumed = optimizer(), optimizer()
    for name in TRAINED:
        resumed.velocity[name] = torch.zeros_like(state(0)[name], dtype=torch.float64)
    one, two = fresh.step(state(0), state(1)), resumed.step(state(0), state(1))
    assert all(one[name].equal(two[name]) for name in one)
    assert {name: v.dtype for name, v in fresh.velocity.items()} == dict.fromkeys(
        TRAINED, torch.float64
    )
