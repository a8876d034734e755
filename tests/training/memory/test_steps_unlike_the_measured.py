"""Steps that differ from the measured ones: the bits, and the errors, of plain ones."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_programs import WIDTH, Change, Instruction, RandomNet
from torch import Tensor, nn

from lipt_cords.training.memory.plan import least_budget
from lipt_cords.training.memory.planner import MemoryPlanner

F = nn.functional


class Turns(nn.Module):
    """A recurrent cell that runs a number of turns."""

    def __init__(self, cell: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.cell, self.head, self.turns = cell(6, 16), nn.Linear(16, 4), 2

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for _ in range(self.turns):
            state = self.cell(x, state)
        logits: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return logits


def frozen(net: Any) -> None:
    net.cell.weight_ih.requires_grad_(False)


def frozen_bias(net: Any) -> None:
    net.cell.bias_hh.requires_grad_(False)


def frozen_head(net: Any) -> None:
    net.head.requires_grad_(False)


def more_turns(net: Any) -> None:
    net.turns = 3


def fewer_turns(net: Any) -> None:
    net.turns = 1


@pytest.mark.parametrize("policy", ["both", "recompute"])
@pytest.mark.parametrize("change", [frozen, frozen_bias, frozen_head, more_turns, fewer_turns])
@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_recurrent_cells_write_to_what_was_sent(cell: Any, change: Any, policy: Any) -> None:
    """Their gates are chunks of one storage, each with a count of writes of its own."""
    torch.manual_seed(0)
    net = Turns(cell)
    twin = copy.deepcopy(net)
    planner = MemoryPlanner(net, budget="1GiB", policy=policy)
    for number in range(5):
        x, y = torch.randn(32, 6), torch.randint(4, (32,))
        if number == 3:
            for one in (net, twin):
                change(one)
        for one, guard in ((net, planner), (twin, nullcontext())):
            one.zero_grad()
            with guard:
                F.cross_entropy(one(x), y).backward()
        for mine, plain in zip(net.parameters(), twin.parameters(), strict=True):
            if plain.grad is None:
                assert mine.grad is None
            else:
                assert mine.grad is not None and torch.equal(mine.grad, plain.grad)


class Twins:
    """A random net under a planner, and its twin that trains plainly."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        program = [Instruction(random) for _ in range(random.randint(2, 7))]
        torch.manual_seed(seed)
        self.lines = len(program)
        self.nets = [RandomNet(program)]
        self.nets.append(copy.deepcopy(self.nets[0]))
        self.optimizers = [torch.optim.SGD(n.parameters(), 0.05, momentum=0.9) for n in self.nets]
        self.zero = random.choice(["none", "zero", "keep"])
        self.generator = torch.Generator().manual_seed(seed)
        self.number = 0

    def step(self, planner: Any, how: str = "plain", batch: int = 6, **change: int) -> None:
        """One step of both; everything must be equal, errors too."""
        x = torch.randn(batch, WIDTH, generator=self.generator)
        y = torch.randint(4, (batch,), generator=self.generator)
        mine, plain = (
            self._take(place, guard, (x.clone(), y), how, Change(**change))
            for place, guard in enumerate((planner, nullcontext()))
        )
        assert mine.keys() == plain.keys()
        for name, value in plain.items():
            assert torch.equal(mine[name].nan_to_num(7.5), value.nan_to_num(7.5)), (name, how)
        self.number += 1

    def _take(
        self, place: int, guard: Any, data: tuple[Tensor, Tensor], how: str, change: Change
    ) -> dict[str, Tensor]:
        net, optimizer = self.nets[place], self.optimizers[place]
        torch.manual_seed(self.number)
        if self.zero != "keep":
            optimizer.zero_grad(set_to_none=self.zero == "none")
        for number, weight in enumerate(net.parameters()):
            weight.requires_grad_(not change.what.get("frozen", 0) >> number % 8 & 1)
        found = {}
        try:
            found["loss"] = self._passes(net, guard, data, how, change).detach().clone()
        except KeyError:
            found["failed"] = torch.zeros(0)
            if net.last is not None and net.last.requires_grad:  # its graph may still be used
                found |= _tried(net.last.square().mean().backward)
        except RuntimeError as error:
            found[_kind(error)] = torch.zeros(0)
        net.last = None
        for name, weight in net.named_parameters():
            found[f"grad {name}"] = torch.zeros(0) if weight.grad is None else weight.grad.clone()
        if "loss" in found:
            optimizer.step()
        return found | {name: value.clone() for name, value in net.state_dict().items()} | {
            "random numbers": torch.rand(2)
        }  # fmt: skip

    def _passes(
        self, net: RandomNet, guard: Any, data: tuple[Tensor, Tensor], how: str, change: Change
    ) -> Tensor:
        x, y = data

        def loss() -> Tensor:
            return F.cross_entropy(net(x, change).float(), y)

        with guard:
            if how == "no gradients first":
                with torch.no_grad():
                    net(x, change)
            if how == "penalty":
                x = x.clone().requires_grad_()
                found = loss()
                (slope,) = torch.autograd.grad(found, x, create_graph=True)
                found = found + slope.square().mean()
            else:
                found = loss()
            if how == "two forward passes":
                found = found + loss()
            if how != "backward outside":
                found.backward(retain_graph=how in ("twice", "once more outside"))
            if how == "twice":
                found.backward()
        if how in ("backward outside", "once more outside"):
            for weight in net.parameters():
                weight.data.mul_(1.01)
            if net.kept is not None:
                net.kept.data.mul_(0.9)
            net.last = None
            found.backward()
        return found


def _kind(error: RuntimeError) -> str:
    return "written to" if "modified by an inplace operation" in str(error) else str(error)[:60]


def _tried(call: Callable[[], None]) -> dict[str, Tensor]:
    try:
        call()
    except RuntimeError as error:
        return {_kind(error): torch.zeros(0)}
    return {}


def changed(random: Random, lines: int) -> dict[str, Any]:
    """How a step is unlike the others."""
    what = random.choice(
        ["skip", "fail", "retarget", "variant", "variant", "turns", "frozen", "how", "how", "batch"]
    )
    if what == "how":
        return {
            what: random.choice(
                [
                    "twice", "penalty", "two forward passes", "no gradients first",
                    "backward outside", "once more outside",
                ]
            )
        }  # fmt: skip
    numbers = {"turns": 1, "frozen": random.randrange(1, 256), "batch": 4}
    return {what: numbers.get(what, random.randrange(lines))}


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), policy=st.sampled_from(["both", "swap", "recompute"]))
def test_whatever_a_step_does_it_has_the_bits_of_a_plain_one(seed: int, policy: Any) -> None:
    twins, random = Twins(seed), Random(seed)
    free = MemoryPlanner(twins.nets[0], budget=2**50, optimizer=twins.optimizers[0])
    for _ in range(3):
        twins.step(free)
    plan = free.report().plan
    if plan is None:  # every step fails, in both
        return
    low = least_budget(plan.trace, policy=policy)
    planner = MemoryPlanner(twins.nets[0], budget=low, optimizer=twins.optimizers[0], policy=policy)
    try:
        for number in range(6):
            twins.step(planner, **(changed(random, twins.lines) if number > 2 else {}))
    except ValueError as error:  # a step that needs more than the budget, the third of its kind
        assert "memory budget" in str(error)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("how", ["plain", "retained", "an error in it"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_planner_is_freed_with_its_last_reference(
    steps: int, how: str, set_to_none: bool
) -> None:
    """Though gradients that were made in it live on, and without a search for cycles."""

    def use() -> list[Any]:
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        planner = MemoryPlanner(net, budget="1GiB", optimizer=optimizer)
        for number in range(steps):
            optimizer.zero_grad(set_to_none=set_to_none)
            with planner:
                net(torch.ones(4, 8)).sum().backward(retain_graph=how == "retained")
                if how == "an error in it" and number == steps - 1:
                    break
            optimizer.step()
        gradients.append(net[0].weight.grad)
        return [weakref.ref(one) for one in (planner, net, optimizer, planner._link)]

    gradients = list[Any]()
    use()  # torch's own lazy imports
    gc.collect()
    threads = {one for one in threading.enumerate() if one.name.startswith(("to-host", "from-"))}
    gc.disable()
    try:
        gone = use()
        assert [one() for one in gone] == [None] * 4
    finally:
        gc.enable()
    for one in set(threading.enumerate()) - threads:
        if one.name.startswith(("to-host", "from-host")):
            one.join(60)
            assert not one.is_alive()


def test_the_first_operation_is_checked_for_writes_too() -> None:
    net = nn.Conv1d(1, 2, 3)
    planner = MemoryPlanner(net, budget="1GiB")
    x = torch.ones(2, 1, 8)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"), planner:
            loss = net(x).square().sum()
            x.add_(1)
            loss.backward()


def test_what_is_still_needed_after_an_interrupted_step_is_not_guessed() -> None:
    """Memory ran out: nothing is recomputed then, and nothing that may have changed is used."""

    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Sigmoid(), nn.Linear(64, 4))
    x = torch.ones(16, 8)
    free = MemoryPlanner(net, budget=2**40)
    for _ in range(3):
        net.zero_grad()
        with free:
            net(x).sum().backward()
    plan = free.report().plan
    assert plan is not None
    low = least_budget(plan.trace, policy="recompute")
    planner = MemoryPlanner(net, budget=low, policy="recompute")
    for _ in range(3):
        net.zero_grad()
        with planner:
            net(x).sum().backward()
    report = planner.report().plan
    assert report is not None and "recompute" in report.decisions.values()
    net.zero_grad()
    with pytest.raises(torch.OutOfMemoryError), planner:
        loss = net(x).sum()
        raise torch.OutOfMemoryError
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        loss.backward()
