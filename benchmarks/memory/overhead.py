"""what half of the activation memory costs, beside what people do today.

Plans are also made for the least memory, near which save_on_cpu is, and for checkpointing's peak.
Every way takes its steps on one net in turns with the others; a ratio is to the plain step of the
same round. Seconds are those of forward pass, loss and backward pass: the optimizer's are the same.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from benchmarks.memory.nets import Case, Planner, Training, measured
from benchmarks.memory.rivals import checkpointed, saved_on_host
from lipt_cords.experiments.memory_bench import faster
from lipt_cords.training.memory.link import build_link
from lipt_cords.training.memory.live_bytes import LiveBytes
from lipt_cords.warmstart.memory import Trace, least_budget, plan_activations

SHARES = (0.5, 0.75)
"""Of the memory that a plain step adds: the first one that any plan reaches is the budget."""
SPEEDS = (50, 200)
"""How much faster than this one a device is for which overheads are predicted."""
DROPPED = 4
"""First steps that are not timed: two measured ones, the first guided one, and one more."""

Row = dict[str, Any]


class Checkpointing:
    """A context that can be entered again and again, as a planner can."""

    def __init__(self, net: torch.nn.Module) -> None:
        self._net = net

    def __enter__(self) -> None:
        self._inside = checkpointed(self._net)
        self._inside.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inside.__exit__(*error)


def row(case: Case, device: str, rounds: int) -> Row:
    """All ways of one net."""
    training = Training(case, device)
    training.step()  # the optimizer's state is there from now on
    trace = measured(training)
    bandwidth = build_link(training.device, None).bandwidth
    least = least_budget(trace, bandwidth=bandwidth)
    share = next(one for one in SHARES if _at(trace, one) >= least)
    budget = _at(trace, share)
    net, sgd = training.net, training.sgd
    every_block = Checkpointing(net)
    _, theirs = _watched(training, every_block)
    ways: dict[str, AbstractContextManager[Any]] = {
        "plain": nullcontext(),
        "planned": Planner(net, budget=budget, optimizer=sgd),
        "planned, least": Planner(net, budget=least, optimizer=sgd),
        "planned, checkpointing's peak": Planner(net, budget=max(theirs, least), optimizer=sgd),
        "checkpoint every block": every_block,
        "save_on_cpu": saved_on_host(training.device, bandwidth),
    }
    if least_budget(trace, bandwidth=bandwidth, policy="recompute") <= budget:
        ways["planned, recompute only"] = Planner(
            net, budget=budget, optimizer=sgd, policy="recompute"
        )
    for _ in range(DROPPED):
        for way in ways.values():
            training.step(way)
    peaks = _peaks(training, ways)
    seconds = _timed(training, ways, rounds)
    return {
        "net": case.name, "batch": list(training.inputs.shape), "base": trace.base,
        "added": trace.peak - trace.base, "share": share, "bandwidth": bandwidth,
        "ways": [
            {"way": name, **peaks[name], **seconds[name], **_planned(way)}
            for name, way in ways.items()
        ],
        "predicted": predicted(trace, budget, bandwidth),
    }  # fmt: skip


def _at(trace: Trace, share: float) -> int:
    """The budget that leaves a share of what a step adds to what is there before it."""
    return int(trace.base + share * (trace.peak - trace.base))


def _planned(way: AbstractContextManager[Any]) -> Row:
    """What a planner says of itself."""
    if not isinstance(way, Planner) or way.made is None:
        return {}
    report = way.report()
    return {
        "budget": way.budget, "planned_peak": way.made.peak,
        "measured_peak": report.measured_peak, "predicted_overhead": way.made.overhead,
        "waited": report.waited, "recomputed": report.recomputed, "steps": report.steps,
        "decisions": way.made.counts(), "notes": report.notes,
    }  # fmt: skip


def _peaks(training: Training, ways: Mapping[str, AbstractContextManager[Any]]) -> dict[str, Row]:
    """The same step in every way, from the same state: its peak, and whether its bits are plain."""
    net, sgd = training.net, training.sgd
    before = copy.deepcopy((net.state_dict(), sgd.state_dict()))
    found: dict[str, Row] = {}
    plain: dict[str, str] = {}
    for name, way in ways.items():
        weights, momenta = copy.deepcopy(before)  # an optimizer goes on with what it is given
        net.load_state_dict(weights)
        sgd.load_state_dict(momenta)
        sgd.zero_grad()
        torch.manual_seed(0)
        loss, peak = _watched(training, way)
        sgd.step()
        bits = training.bits(loss)
        plain = plain or bits
        found[name] = {"peak": peak, "differs": [one for one in bits if bits[one] != plain[one]]}
    return found


def _watched(training: Training, way: AbstractContextManager[Any]) -> tuple[torch.Tensor, int]:
    """The loss of a step, and the most bytes in memory."""
    if training.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        loss = training.gradients(way)
        return loss, torch.cuda.max_memory_allocated()
    tensors = [*training.net.parameters(), *training.net.buffers()]
    tensors += [training.inputs, training.labels]
    tensors += [state["momentum_buffer"] for state in training.sgd.state.values()]
    with LiveBytes() as live:
        loss = training.gradients(way)
    return loss, sum(tensor.untyped_storage().nbytes() for tensor in tensors) + live.peak


def _timed(
    training: Training, ways: Mapping[str, AbstractContextManager[Any]], rounds: int
) -> dict[str, Row]:
    """Seconds of every way, in turns: median, and median and extremes of the ratio to plain."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            training.sgd.zero_grad()
            _synchronize(training)
            started = time.perf_counter()
            training.gradients(way)
            _synchronize(training)
            seconds[name].append(time.perf_counter() - started)
            training.sgd.step()
    found = {}
    for name, mine in seconds.items():
        ratios = [one / plain for one, plain in zip(mine, seconds["plain"], strict=True)]
        found[name] = {
            "seconds": statistics.median(mine), "time": statistics.median(ratios),
            "low": min(ratios), "high": max(ratios),
        }  # fmt: skip
    return found


def _synchronize(training: Training) -> None:
    if training.device.type == "cuda":
        torch.cuda.synchronize()


def predicted(trace: Trace, budget: int, bandwidth: float) -> list[Row]:
    """Overheads on faster devices behind the same link; None where no plan fits the budget."""
    found = []
    for speed in (1, *SPEEDS):
        for policy in ("both", "swap", "recompute"):
            fits = least_budget(trace, bandwidth=bandwidth, policy=policy) <= budget
            plan = fits and plan_activations(
                faster(trace, speed), budget, bandwidth=bandwidth, policy=policy
            )
            row = {"speed": speed, "policy": policy, "overhead": plan.overhead if plan else None}
            found.append(row | ({"decisions": plan.counts()} if plan else {}))
    return found
