"""Guided steps against plain ones: the same bits, and the memory that the plan says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from planner_pair import Pair, measured
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.utils.parametrizations import spectral_norm

from lipt_cords.models.build import build_model
from lipt_cords.training.memory.live_bytes import LiveBytes
from lipt_cords.training.memory.plan import least_budget
from lipt_cords.training.memory.planner import MemoryPlanner
from lipt_cords.training.memory.step_kinds import Plans
from lipt_cords.training.memory.trace import RECOMPUTE, SWAP

SLOW = 2e8
"""Bytes a second of a link so slow that making things again pays."""


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=dropout)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x).mean(1))
        return logits


class Mixed(nn.Module):
    """In-place operations, dropout, a module that runs twice, pooling, a running average."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, momentum=None)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.spectral = spectral_norm(nn.Conv2d(8, 8, 1))
        self.drop = nn.Dropout2d(0.3)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.first(x)))
        x = nn.functional.silu(self.norm(self.twice(x)), inplace=False)
        x = x + self.drop(self.norm(self.twice(x)))
        x *= 0.5
        x = self.spectral(nn.functional.gelu(x))
        x = nn.functional.max_pool2d(x, 4)
        logits: Tensor = self.head(x.flatten(1))
        return logits


def resnet(name: str) -> Callable[[], nn.Module]:
    return lambda: build_model(name, 10, seed=3)


def shufflenet() -> nn.Module:
    """torchvision's smallest one, with two blocks a stage: one that halves and one that splits."""
    from torchvision.models import ShuffleNetV2

    torch.manual_seed(0)
    return ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 1024], num_classes=10)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return Encoder()


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed()


IMAGES, TOKENS = (8, 3, 16, 16), (8, 12, 32)


CASES = [
    pytest.param(resnet("resnet20"), IMAGES, False, id="resnet20"),
    pytest.param(resnet("resnet8"), IMAGES, True, id="resnet8-bf16"),
    pytest.param(shufflenet, (4, 3, 32, 32), False, id="shufflenet"),
    pytest.param(encoder, TOKENS, False, id="encoder"),
    pytest.param(encoder, TOKENS, True, id="encoder-bf16"),
    pytest.param(mixed, IMAGES, False, id="mixed"),
]


@pytest.mark.parametrize(("build", "shape", "half"), CASES)
@pytest.mark.parametrize("policy", ["both", "swap", "recompute"])
def test_guided_steps_have_the_bits_of_plain_ones(
    build: Callable[[], nn.Module], shape: tuple[int, ...], half: bool, policy: Any
) -> None:
    pair = Pair(build, shape, half)
    trace = measured(pair)
    allowed = {"both": {SWAP, RECOMPUTE}, "swap": {SWAP}, "recompute": {RECOMPUTE}}[policy]
    for bandwidth, share in ((12e9, 0.0), (SLOW, 0.5)):
        low = least_budget(trace, bandwidth=bandwidth, policy=policy)
        budget = int(low + share * (trace.peak - low))
        planner = pair.plan(budget, bandwidth=bandwidth, policy=policy)
        for _ in range(3):
            pair.step()
        report = planner.report()
        assert report.plan is not None and not report.notes
        assert report.steps == {"measured": 2, "guided": 1, "on_demand": 0}
        assert report.measured_peak is not None and report.plan.peak <= budget
        assert report.measured_peak == pytest.approx(report.plan.peak, rel=0.05)
        assert report.measured_peak <= budget * 1.001
        ways = set(report.plan.decisions.values())
        assert ways <= allowed and (ways or low == trace.peak)


@pytest.mark.parametrize("build", [resnet("resnet20"), encoder, mixed])
def test_live_bytes_and_the_trace_agree_with_torchs_tracker(
    build: Callable[[], nn.Module],
) -> None:
    pair = Pair(build, TOKENS if build is encoder else IMAGES)
    trace = measured(pair)
    net = pair.twin
    net.zero_grad(set_to_none=True)

    def step() -> None:
        torch.manual_seed(0)
        nn.functional.cross_entropy(net(pair.inputs), pair.labels).backward()

    with LiveBytes() as live:
        step()
    net.zero_grad(set_to_none=True)
    tracker = MemTracker()
    tracker.track_external(net, pair.inputs, pair.labels)
    with tracker:
        step()
    device = torch.device("cpu")
    theirs = tracker.get_tracker_snapshot("peak")[device]["Total"]
    given = sum(t.untyped_storage().nbytes() for t in (*net.parameters(), *net.buffers()))
    given += pair.inputs.nbytes + pair.labels.nbytes
    assert given + live.peak == pytest.approx(theirs, rel=0.01)
    assert trace.peak - trace.base == pytest.approx(live.peak, rel=0.002)


def test_channels_last_keeps_its_strides() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    pair.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pair.twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pair.inputs = pair.inputs.contiguous(memory_format=torch.channels_last)
    trace = measured(pair)
    low = least_budget(trace, bandwidth=SLOW, policy="recompute")
    planner = pair.plan(low, bandwidth=SLOW, policy="recompute")
    for _ in range(5):
        pair.step()
    assert planner.report().steps["guided"] == 3


def test_a_smaller_last_batch_is_a_kind_of_its_own() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    planner = pair.plan("1GiB")
    for batch in (8, 8, 5, 8, 8, 5, 8, 5):
        pair.step(batch)
    report = planner.report()
    assert report.steps == {"measured": 4, "guided": 4, "on_demand": 0}
    assert report.plan is not None  # the report is of the larger batch, though it was not the last
    assert report.plan.trace.peak == max(trace.peak for trace in planner.traces)
    assert str(report) == report.summary() and len(repr(report)) < 500
    assert len(planner.traces) == 2


class Fickle(nn.Module):
    """Does something else when told to: other operations, in the middle of the net."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.head = nn.Linear(16, 10)
        self.mood, self.scale = 0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = torch.tanh(layer(x)) * self.scale
            if self.mood and number == 3:
                x = torch.sigmoid(x)
        logits: Tensor = self.head(x)
        return logits


def fickle() -> nn.Module:
    torch.manual_seed(0)
    return Fickle()


@pytest.mark.parametrize("policy", ["swap", "recompute"])
def test_a_step_that_changes_falls_back_and_says_so(policy: Any) -> None:
    pair = Pair(fickle, (64, 16))
    low = least_budget(measured(pair), policy=policy)
    planner = pair.plan(low + 20_000, policy=policy)
    for _ in range(3):
        pair.step()
    assert planner.report().steps["guided"] == 1
    pair.net.mood = pair.twin.mood = 1  # type: ignore[assignment]
    pair.step()
    report = planner.report()
    assert report.steps["on_demand"] == 1
    assert "aten.sigmoid" in report.notes[0] and "measured again" in report.notes[0]
    for _ in range(3):
        pair.step()
    assert planner.report().steps["guided"] == 2


def test_a_step_that_keeps_changing_is_left_alone() -> None:
    pair = Pair(fickle, (64, 16))
    planner = pair.plan(2**40)
    for _ in range(3):
        pair.net.mood = pair.twin.mood = 0  # type: ignore[assignment]
        for _ in range(3):
            pair.step()
        pair.net.mood = pair.twin.mood = 1  # type: ignore[assignment]
        pair.step()
    for _ in range(2):
        pair.step()
    report = planner.report()
    assert report.steps["on_demand"] == 5
    assert "on demand from now on" in report.notes[-1]


def test_numbers_that_change_from_step_to_step_are_those_of_the_step() -> None:
    pair = Pair(fickle, (64, 16))
    pair.plan(least_budget(measured(pair), policy="recompute"), policy="recompute")
    for scale in (1.0, 0.9, 0.8, 0.7, 0.6):
        pair.net.scale = pair.twin.scale = scale  # type: ignore[assignment]
        pair.step()
    assert pair.planner is not None
    report = pair.planner.report()
    assert report.plan is not None and RECOMPUTE in report.plan.decisions.values()
    assert report.steps["guided"] == 3


def test_late_triggers_move_forward() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    trace = measured(pair)
    low = least_budget(trace, policy="swap")
    planner = pair.plan(int(low + 0.6 * (trace.peak - low)), policy="swap")
    for _ in range(3):
        pair.step()
    (planned,) = [p for kind in planner._kinds.values() for p in kind.plans.values()]
    before = dict(planned.indexed.plan.triggers)
    late = dict.fromkeys(before, 2 * trace.seconds)
    moved = planned.feed_back(late)
    after = planned.indexed.plan
    assert moved > 0 and after.peak <= planner.budget
    assert all(after.triggers[one] <= event for one, event in before.items())
    assert sum(after.triggers[one] < event for one, event in before.items()) == moved
    assert planned.feed_back(late) == 0  # they begin with the backward pass, or where there is room
    pair.step()
    pair.step()


def test_what_comes_late_is_told() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    trace = measured(pair)
    planner = pair.plan(least_budget(trace, policy="swap"), policy="swap", bandwidth=1e11)
    for _ in range(3):
        pair.step()
    planner._link.back._bandwidth = 1e7  # type: ignore[attr-defined]
    pair.step()
    plan = planner.report().plan
    assert plan is not None
    least = min(trace.storages[one].size for one in plan.decisions) / 1e7
    assert planner.report().waited >= least


def test_plans_are_shared_by_nets_that_are_built_alike() -> None:
    plans = Plans()
    for seed in range(2):
        net = build_model("resnet8", 10, seed=seed)
        planner = MemoryPlanner(net, budget="1GiB", plans=plans)
        for _ in range(3):
            net.zero_grad(set_to_none=True)
            with planner:
                net(torch.zeros(4, 3, 16, 16)).sum().backward()
        assert planner.report().steps["measured"] == (2 if seed == 0 else 0)
    other = MemoryPlanner(build_model("cnn", 10), budget="1GiB", plans=plans)
    assert not other.traces


def test_a_failed_step_leaves_nothing_behind() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    planner = pair.plan("1GiB")
    with pytest.raises(RuntimeError), planner:
        pair.net(torch.zeros(4, 5, 16, 16))
    for _ in range(3):
        pair.step()
    assert planner.report().steps == {"measured": 2, "guided": 1, "on_demand": 0}


def test_a_second_backward_pass_over_the_same_graph() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    for round_ in range(8):
        if round_ == 0:
            pair.plan(2**50)
        if round_ == 4:
            assert pair.planner is not None
            plan = pair.planner.report().plan
            assert plan is not None
            pair.plan(least_budget(plan.trace, bandwidth=SLOW), bandwidth=SLOW)
        for net, around in ((pair.net, pair.planner), (pair.twin, None)):
            net.zero_grad(set_to_none=True)
            with around or nullcontext():
                loss = nn.functional.cross_entropy(net(pair.inputs), pair.labels)
                loss.backward(retain_graph=True)
                loss.backward()
        for one, two in zip(pair.net.parameters(), pair.twin.parameters(), strict=True):
            assert one.grad is not None and two.grad is not None
            assert torch.equal(one.grad, two.grad)
    assert pair.planner is not None and pair.planner.report().steps["guided"] == 2


def test_an_in_place_write_to_what_is_saved_is_refused_as_without_a_plan() -> None:
    weight = nn.Linear(4, 4)

    def step() -> None:
        x = torch.tanh(weight(torch.ones(2, 4)))
        y = x * x
        x.add_(1)
        y.sum().backward()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        step()
    planner = MemoryPlanner(weight, budget="1MiB")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"), planner:
        step()


@pytest.mark.parametrize("policy", ["swap", "recompute"])
def test_weights_written_to_before_the_backward_pass_are_refused(policy: Any) -> None:
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
    net.append(nn.Linear(64, 8))

    def step(around: Any, change: bool) -> None:
        net.zero_grad()
        with around:
            loss = net(torch.ones(64, 8)).sum()
            if change:
                with torch.no_grad():
                    net[0].weight.add_(1)
                    net[2].weight.add_(1)
            loss.backward()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        step(nullcontext(), change=True)
    first = MemoryPlanner(net, budget="1GiB")
    step(first, change=False)
    step(first, change=False)
    planner = MemoryPlanner(net, budget=least_budget(first.traces[0], policy=policy), policy=policy)
    for _ in range(3):
        step(planner, change=False)
    assert planner.report().plan.decisions  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        step(planner, change=True)


def test_the_optimizer_may_step_inside() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    trace = measured(pair)
    for net in (pair.net, pair.twin):
        pair.optimizers[id(net)].zero_grad()
    low = least_budget(trace, policy="recompute")
    planner = pair.plan((low + trace.peak) // 2, policy="recompute")
    for _ in range(4):
        for net, around in ((pair.net, planner), (pair.twin, nullcontext())):
            with around:
                nn.functional.cross_entropy(net(pair.inputs), pair.labels).backward()
                pair.optimizers[id(net)].step()
                pair.optimizers[id(net)].zero_grad()
        for one, two in zip(pair.net.parameters(), pair.twin.parameters(), strict=True):
            assert torch.equal(one, two)
    plan = planner.report().plan
    assert plan is not None and RECOMPUTE in plan.decisions.values()


def test_too_small_a_budget_says_the_least_that_works() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    planner = pair.plan("400KiB")
    pair.step()
    pair.step()
    with pytest.raises(ValueError, match=r"400.00 KiB is too small: .* give at least") as caught:
        pair.step()
    said = str(caught.value).split("the step takes ")[1].split(":")[0]
    planner = pair.plan(said)
    pair.number = 2
    for parameter, twin in zip(pair.net.parameters(), pair.twin.parameters(), strict=True):
        assert torch.equal(parameter, twin)
    for _ in range(3):
        pair.step()
    assert planner.report().steps["guided"] == 1


def test_a_step_that_saves_nothing_is_named() -> None:
    net = nn.Linear(4, 4)
    planner = MemoryPlanner(net, budget="1MiB")
    for _ in range(2):
        with planner, torch.no_grad():
            net(torch.ones(2, 4))
    with pytest.raises(ValueError, match="nothing to plan"), planner, torch.no_grad():
        net(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": "two"}, "memory_budget: expected bytes"),
        ({"budget": 0}, "memory_budget: expected bytes"),
        ({"budget": True}, "memory_budget: expected bytes"),
        ({"budget": "1GiB", "bandwidth": 0}, "bandwidth must be positive, a finite number"),
        ({"budget": "1GiB", "bandwidth": "12GB"}, "bandwidth must be positive, a finite number"),
        (
            {"budget": "1GiB", "bandwidth": float("inf")},
            "bandwidth must be positive, a finite number",
        ),
        ({"budget": 1.5}, "memory_budget: expected bytes"),
        ({"budget": "1GiB", "policy": "swop"}, "policy must be"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MemoryPlanner(nn.Linear(2, 2), **options)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.compile exclude each other"):
        MemoryPlanner(torch.compile(nn.Linear(2, 2)), budget="1GiB")  # type: ignore[arg-type]
    compiled = nn.Sequential(nn.Linear(2, 2))
    compiled[0].compile()
    with pytest.raises(ValueError, match=r"torch\.compile exclude each other"):
        MemoryPlanner(compiled, budget="1GiB")
    with pytest.raises(ValueError, match="no parameters"):
        MemoryPlanner(nn.ReLU(), budget="1GiB")
    planner = MemoryPlanner(nn.Linear(2, 2), budget="1GiB")
    with pytest.raises(ValueError, match="one step at a time"), planner, planner:
        pass
    with pytest.raises(ValueError, match="CPU, or an accelerator"):
        MemoryPlanner(nn.Linear(2, 2, device="meta"), budget="1GiB")


def test_the_model_is_left_without_hooks() -> None:
    pair = Pair(resnet("resnet8"), IMAGES)
    measured(pair)
    for module in pair.net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    copy.deepcopy(pair.net)
