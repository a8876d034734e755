"""Steps that are hard to follow: hidden writes, changing shapes, odd layers, odd users."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from planner_pair import Pair, measured
from torch import Tensor, nn

from lipt_cords.training.memory.link import PacedLink
from lipt_cords.training.memory.plan import least_budget
from lipt_cords.training.memory.planner import MemoryPlanner
from lipt_cords.training.memory.step_kinds import Plans
from lipt_cords.training.memory.trace import RECOMPUTE


class Around(nn.Module):
    """Something in the middle of a small net."""

    def __init__(self, middle: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(16, width), middle
        self.head = nn.Linear(width, 10)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = torch.tanh(self.first(x))
        x = self.middle(x)
        logits: Tensor = self.head(torch.tanh(x))
        return logits


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(32, 16, num_layers=2, bidirectional=True, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.reshape(-1, 4, 32))[0]
        return out.reshape(-1, 32)


class FirstEvalThenTrain(nn.Module):
    """BatchNorm reads its running statistics, and then moves them: its schema does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(32)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.eval()
        calm = torch.exp(-(self.norm(torch.tanh(x)) ** 2))
        self.norm.train()
        return torch.sigmoid(calm * self.norm(torch.tanh(x)))


class FilledByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out.numpy()[:] = x.detach().numpy() * 2
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class ByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = FilledByHand.apply(x)
        return torch.tanh(torch.exp(-out * out))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rrelu(torch.tanh(x), training=True) * torch.tanh(x)


class Conjugate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(x, torch.tanh(x)) * 1.0
        z.conj().mul_(0.5 + 0.25j)
        return torch.exp(-(z.abs() ** 2))


NETS = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "eval, then train": FirstEvalThenTrain,
    "filled by hand": ByHand,
    "rrelu": Noisy,
    "conjugate": Conjugate,
    "norms": lambda: nn.Sequential(
        nn.LayerNorm(32),
        nn.BatchNorm1d(32, track_running_stats=False),
        nn.Unflatten(1, (8, 4)),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm1d(8, affine=True),
        nn.Flatten(1),
        nn.AlphaDropout(0.2),
    ),
}


def around(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Around(NETS[name]())

    return build


@pytest.mark.parametrize("policy", ["both", "swap", "recompute"])
@pytest.mark.parametrize("name", NETS)
def test_odd_layers_keep_their_bits(name: str, policy: Any) -> None:
    pair = Pair(around(name), (64, 16))
    trace = measured(pair)
    planner = pair.plan(least_budget(trace, policy=policy), policy=policy)
    for _ in range(4):
        pair.step()
    report = planner.report()
    assert report.steps == {"measured": 2, "guided": 2, "on_demand": 0}
    assert report.plan is not None and report.measured_peak is not None
    assert report.measured_peak == pytest.approx(report.plan.peak, rel=0.05)


class Sometimes(nn.Module):
    """In some steps, writes to what an activation would be made from, or reads more."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.now = how, False
        self.register_buffer("scale", torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        a = x * 1.5
        c = torch.exp(-a if self.how != "buffer" else -a + self.scale)
        if self.now and self.how == "in place":
            a.add_(1)
        if self.now and self.how == "buffer":
            self.scale.mul_(0.9)
        parts = [c, a, x] if self.now and self.how == "more" else [c, a]
        return torch.sigmoid(torch.tanh(torch.stack(parts).sum(0))) * c


@pytest.mark.parametrize("policy", ["both", "swap", "recompute"])
@pytest.mark.parametrize("how", ["in place", "buffer", "more"])
def test_a_step_that_changes_loses_nothing(how: str, policy: Any) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Around(Sometimes(how))

    pair = Pair(build, (64, 16))
    trace = measured(pair)
    planner = pair.plan(least_budget(trace, policy=policy), policy=policy)
    for number in range(7):
        for net in (pair.net, pair.twin):
            net.middle.now = number == 4  # type: ignore[union-attr, assignment]
        pair.step()
    report = planner.report()
    assert report.plan is not None and report.plan.decisions
    if how != "more":  # what is not made again may read what it likes
        assert report.steps["on_demand"] == 1 and "not like the measured one" in report.notes[0]


class Normalised(nn.Module):
    """Its first operation reads a buffer, whose shape is that of no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))
        self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x - self.mean[None])))
        return logits


def test_a_smaller_batch_is_told_by_the_inputs_of_the_net() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Normalised()

    pair = Pair(build, (64, 16))
    planner = pair.plan("1GiB")
    for batch in (64, 48, 64, 48, 64, 48, 64, 48):
        pair.step(batch)
    assert planner.report().steps == {"measured": 4, "guided": 4, "on_demand": 0}


def test_more_kinds_than_are_planned_are_counted_and_told() -> None:
    pair = Pair(around("conjugate"), (64, 16))
    planner = pair.plan("1GiB")
    for _ in range(3):
        for batch in range(20, 30):
            pair.step(batch)
    report = planner.report()
    assert report.steps == {"measured": 16, "guided": 8, "on_demand": 6}
    assert "more than 8 kinds of steps" in report.notes[0]


def test_many_nets_may_share_plans() -> None:
    plans = Plans()
    for width in range(1, 70):
        net = nn.Linear(4, width)
        planner = MemoryPlanner(net, budget="1GiB", plans=plans)
        for _ in range(3):
            net.zero_grad()
            with planner:
                net(torch.ones(2, 4)).square().sum().backward()
        assert planner.report().steps == {"measured": 2, "guided": 1, "on_demand": 0}
    assert len(plans.kinds) == 64


def test_host_buffers_do_not_pile_up() -> None:
    link = PacedLink(1e12)
    for size in range(1000, 50_000, 1000):
        away = [link.send(torch.ones(size, dtype=torch.uint8)) for _ in range(3)]
        for one in away:
            one.settle()
            one.get()
        del one, away
    held = sum(b.numel() for some in link._spare.values() for b in some)  # type: ignore[attr-defined]
    assert held <= 3 * 50_000


def test_a_backward_pass_of_an_earlier_step() -> None:
    pair = Pair(around("norms"), (64, 16))
    planner = pair.plan(2**40)
    for number in range(8):
        if number == 4:
            plan = planner.report().plan
            assert plan is not None
            planner = pair.plan(least_budget(plan.trace))
        losses = []
        for net, guard in ((pair.net, planner), (pair.twin, nullcontext())):
            net.zero_grad()
            torch.manual_seed(number)
            early = net(pair.inputs).square().mean()
            with guard:
                early.backward()
                nn.functional.cross_entropy(net(pair.inputs), pair.labels).backward()
            losses.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        assert all(map(torch.equal, *losses))


def test_a_second_forward_pass_is_in_the_plan() -> None:
    pair = Pair(around("eval, then train"), (64, 16))
    planner = pair.plan(2**40)

    def twice(net: nn.Module, guard: Any) -> None:
        net.zero_grad()
        with guard:
            nn.functional.cross_entropy(net(pair.inputs), pair.labels).backward()
            nn.functional.cross_entropy(net(pair.inputs[:8]), pair.labels[:8]).backward()

    for _ in range(3):
        twice(pair.net, planner)
    plan = planner.report().plan
    assert plan is not None and "second forward pass" in planner.report().notes[0]
    planner = pair.plan(least_budget(plan.trace, policy="recompute"), policy="recompute")
    pair.twin.load_state_dict(pair.net.state_dict())
    for _ in range(4):
        twice(pair.net, planner)
        twice(pair.twin, nullcontext())
        for one, two in zip(pair.net.parameters(), pair.twin.parameters(), strict=True):
            assert one.grad is not None and two.grad is not None
            assert torch.equal(one.grad, two.grad)
    report = planner.report()
    assert report.plan is not None and RECOMPUTE in report.plan.decisions.values()
    assert report.measured_peak == pytest.approx(report.plan.peak, rel=0.05)


def test_sparse_gradients_stay_where_they_are() -> None:
    net = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Flatten(), nn.Linear(32, 4))
    planner = MemoryPlanner(net, budget="1GiB")
    for _ in range(4):
        with planner:
            net(torch.randint(50, (16, 4))).square().sum().backward()
    assert planner.report().steps["guided"] >= 1


def test_lazy_weights_and_steps_inside_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="lazy parameters"):
        MemoryPlanner(nn.LazyLinear(3), budget="1GiB")
    one, other = (MemoryPlanner(nn.Linear(2, 2), budget="1GiB") for _ in range(2))
    with pytest.raises(ValueError, match="guides one step at a time"), one, other:
        pass
    with other:
        pass
    net = nn.Linear(2, 2)
    planner = MemoryPlanner(net, budget="1GiB")
    for _ in range(2):
        with planner:
            loss = net(torch.ones(2, 2)).square().sum()
        loss.backward()
    with pytest.raises(ValueError, match="no backward pass asked for them"), planner:
        net(torch.ones(2, 2))


@pytest.mark.parametrize("batch", [2, 8])
def test_copies_of_statistics_are_in_the_planned_peak(batch: int) -> None:
    """Calling BatchNorm again takes memory for its statistics, which it must not move twice."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(16, 32)]
        for _ in range(4):
            layers += [nn.BatchNorm1d(32), nn.Tanh(), nn.BatchNorm1d(32), nn.Sigmoid()]
        return nn.Sequential(*layers, nn.Linear(32, 10))

    pair = Pair(build, (batch, 16))
    low = least_budget(measured(pair), policy="recompute")
    planner = pair.plan(low, policy="recompute")
    for _ in range(3):
        pair.step()
    report = planner.report()
    assert report.plan is not None and RECOMPUTE in report.plan.decisions.values()
    assert report.measured_peak == report.plan.peak
