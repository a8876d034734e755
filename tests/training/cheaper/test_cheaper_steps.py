"""Cheaper steps on a subset: plain training at full length, exact resume, and the way back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lipt_cords import train_on_subset
from lipt_cords.models.build import build_model
from lipt_cords.models.nets import CifarResNet
from lipt_cords.selectors.base import Selection
from lipt_cords.training.cheaper.path_schedule import SubnetworkConfig
from lipt_cords.training.cheaper.steps import CheaperSteps
from lipt_cords.training.cheaper.tickets import EarlyBirdConfig

DRAWS = torch.Generator().manual_seed(0)
LABELS = torch.arange(72) % 4
IMAGES = torch.randn(72, 3, 8, 8, generator=DRAWS) + LABELS[:, None, None, None] * 0.5
DATA = TensorDataset(IMAGES, LABELS)
SUBSET = Selection(torch.arange(0, 72, 2), torch.linspace(0.5, 2.0, 36))
TICKET = {"ratio": 0.5, "l1": 1e-2, "window": 2, "latest": 0.5}


def net() -> nn.Module:
    """Two blocks in each of three stages, of which four can be left out."""
    torch.manual_seed(0)
    return CifarResNet(2, 4)


def trained(**options: Any) -> tuple[nn.Module, Any]:
    model = net()
    given = {"val_dataset": DATA, "epochs": 4, "batch_size": 12, "device": "cpu", "seed": 3}
    return model, train_on_subset(model, DATA, SUBSET, **{**given, **options})


def same(one: nn.Module, two: nn.Module) -> bool:
    states = one.state_dict(), two.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(scope="module")
def plain() -> tuple[nn.Module, Any]:
    return trained()


@pytest.fixture(scope="module")
def uninterrupted() -> Any:
    """Trains with some options; once for all tests that ask for them."""
    kept: dict[str, tuple[nn.Module, Any]] = {}

    def ask(options: dict[str, Any]) -> tuple[nn.Module, Any]:
        key = repr(options)
        if key not in kept:
            kept[key] = trained(**options)
        return kept[key]

    return ask


@pytest.mark.parametrize(
    "options",
    [{"subnetwork": {"lengths": [4]}}, {"early_bird": {"ratio": 0.0}},
     {"subnetwork": {"lengths": [4]}, "early_bird": {"ratio": 0.0}}],
)  # fmt: skip
def test_nothing_left_out_gives_the_bits_of_plain_training(plain, options) -> None:
    model, result = trained(**options)
    assert same(model, plain[0]) and result.work == 1.0
    assert [p.val_accuracy for p in result.curve] == [p.val_accuracy for p in plain[1].curve]


def test_paths_cost_what_was_counted() -> None:
    model = build_model("resnet20", 4, image_size=8, seed=0)
    options = SubnetworkConfig(lengths=(3, 7))
    loss = nn.CrossEntropyLoss()
    steps = CheaperSteps(
        model, (IMAGES[:2], LABELS[:2]), loss, steps=20, epoch_steps=5, seed=0, subnetwork=options
    )
    with FlopCounterMode(display=False) as counter:
        loss(model(IMAGES[:12]), LABELS[:12]).backward()
    whole = counter.get_total_flops()
    with steps.applied(), FlopCounterMode(display=False) as counter:
        for _ in range(20):
            steps.before_step(12)
            loss(model(IMAGES[:12]), LABELS[:12]).backward()
            assert not steps.after_step()
    assert steps.work == pytest.approx(counter.get_total_flops() / (20 * whole), rel=0.01)
    assert steps.work < 0.8
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_a_ticket_makes_the_rest_cheaper_and_comes_back_as_zeros() -> None:
    model, result = trained(early_bird=TICKET)
    told = result.ticket
    assert told["steps"] == 6 and told["share_kept"] == pytest.approx(0.5, abs=0.02)
    assert result.work == pytest.approx((6 + 6 * told["work"]) / 12)
    assert model.head.in_features == 64 and (model.head.weight == 0).any()
    with torch.no_grad():
        reached = (model.eval()(IMAGES).argmax(1) == LABELS).float().mean()
    assert float(reached) == pytest.approx(result.val_accuracy)


@pytest.mark.parametrize(
    "options",
    [{"subnetwork": {"lengths": [2, 3, 4]}}, {"early_bird": TICKET},
     {"early_bird": TICKET, "subnetwork": {"lengths": [2, 4]}},
     {"early_bird": TICKET, "optimizer": "adamw"}],
)  # fmt: skip
@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_resumed_training_has_the_same_bits(options, stopped, uninterrupted, tmp_path) -> None:
    class Killed(BaseException):
        pass

    whole, result = uninterrupted(options)
    steps = []

    def dying(*_):
        steps.append(1)
        if len(steps) > 3 * stopped:  # in the epoch after, of three batches
            raise Killed

    hook = register_optimizer_step_pre_hook(dying)
    try:
        with pytest.raises(Killed):
            trained(**options, checkpoint_dir=tmp_path)
    finally:
        hook.remove()
    again, resumed = trained(**options, checkpoint_dir=tmp_path, resume=True)
    assert same(whole, again)
    assert resumed.work == pytest.approx(result.work) and resumed.ticket == result.ticket


def test_another_option_is_another_run(tmp_path) -> None:
    trained(early_bird=TICKET, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="early_bird"):
        trained(early_bird=TICKET | {"ratio": 0.3}, checkpoint_dir=tmp_path, resume=True)


def test_momentum_of_what_stays_is_kept() -> None:
    model = net()
    steps = CheaperSteps(
        model, (IMAGES[:2], LABELS[:2]), nn.CrossEntropyLoss(), steps=4, epoch_steps=2, seed=0,
        early_bird=EarlyBirdConfig(**TICKET),
    )  # fmt: skip
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        sgd.zero_grad()
        nn.functional.cross_entropy(model(IMAGES[:12]), LABELS[:12]).backward()
        steps.after_backward()
        sgd.step()
        drawn = steps.after_step()
    assert drawn
    before = {n: copy.deepcopy(sgd.state[p]["momentum_buffer"])
              for n, p in model.named_parameters()}  # fmt: skip
    steps.move_momentum(sgd, model)
    wanted = steps.ticket.gather(before)
    for name, parameter in steps.net.named_parameters():
        assert torch.equal(sgd.state[parameter]["momentum_buffer"], wanted[name])


class Dropping(nn.Module):
    """A small net with BatchNorm, dropout and a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.drop(x))


@pytest.mark.parametrize(
    "options", [{"early_bird": {"ratio": 0}}, {"subnetwork": {"lengths": [4]}}]
)
def test_what_is_tried_out_first_draws_nothing_from_the_training(options: Any) -> None:
    nets = [Dropping(), Dropping()]
    for net, more in zip(nets, ({}, options), strict=True):
        train_on_subset(net, DATA, SUBSET, epochs=2, batch_size=12, device="cpu", **more)
    assert same(*nets)


@pytest.mark.parametrize("options", [{"subnetwork": {"lengths": [2, 4]}}, {"early_bird": TICKET}])
def test_a_caller_sees_the_net_as_it_stands(options: Any) -> None:
    model, seen = net(), []

    def look(point: Any) -> None:
        copied = copy.deepcopy(model).eval()
        with torch.no_grad():
            right = (copied(IMAGES).argmax(1) == LABELS).float().mean()
        seen.append((float(right), point.val_accuracy))

    given = {"val_dataset": DATA, "epochs": 4, "batch_size": 12, "device": "cpu"}
    train_on_subset(model, DATA, SUBSET, on_point=look, **given, **options)
    assert len(seen) == 5 and all(mine == pytest.approx(told) for mine, told in seen)


def test_an_interrupt_loses_nothing() -> None:
    class Enough(Exception):
        pass

    def stop(point: Any) -> None:
        if point.epoch == 3:  # the ticket is drawn in the second
            raise Enough

    model = net()
    with pytest.raises(Enough):
        train_on_subset(model, DATA, SUBSET, epochs=4, batch_size=12, device="cpu",
                        early_bird=TICKET, on_point=stop)  # fmt: skip
    gone = model.blocks[0].branch[1].weight == 0
    assert gone.any() and not gone.all()


def test_short_batches_count_for_what_they_are() -> None:
    subset = Selection(torch.arange(34), torch.ones(34))
    ticket = {"ratio": 0.5, "every": 1, "latest": 0.01}
    result = train_on_subset(net(), DATA, subset, epochs=1, batch_size=32, device="cpu",
                             early_bird=ticket)  # fmt: skip
    assert result.ticket["steps"] == 1
    assert result.work == pytest.approx((32 + 2 * result.ticket["work"]) / 34)


def test_a_forward_of_ones_own_is_called_and_kept() -> None:
    model, calls = net(), []
    block = model.blocks[1]
    plain = block.forward
    block.forward = lambda x: calls.append(1) or plain(x)
    train_on_subset(model, DATA, SUBSET, epochs=1, device="cpu", subnetwork={"lengths": [4]})
    assert calls and "forward" in block.__dict__


def test_divergence_is_called_by_its_name() -> None:
    with pytest.raises(ValueError, match="training diverged"):
        trained(early_bird=TICKET | {"latest": 0.25}, lr=1e8)


def test_equal_scales_are_no_ticket() -> None:
    model = net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.register_hook(torch.zeros_like)
    with pytest.raises(ValueError, match="BatchNorm's scales are equal"):
        train_on_subset(model, DATA, SUBSET, epochs=4, device="cpu", early_bird=TICKET)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subnetwork": 3}, "subnetwork: expected options by name"),
        ({"early_bird": {"vote": True}}, "workers, and this training has none"),
        ({"early_bird": {"ratio": 30}}, "a share from 0 to below 1, such as 0.3, received 30"),
        ({"subnetwork": {"lengths": [2, 3]}}, "must train the whole net"),
        ({"subnetwork": {"lengths": [1, 4]}}, "expected from 2"),
        ({"subnetwork": {"length": [4]}}, "Did you mean 'lengths'"),
        ({"subnetwork": {"lengths": 3}}, "expected a list, received 3"),
        ({"subnetwork": {"blocks": "blocks.1"}}, "expected a list, received 'blocks.1'"),
        ({"subnetwork": {"blocks": []}}, "must name different blocks"),
        ({"subnetwork": {"blocks": ["blocks.1", "blocks.1"]}}, "must name different blocks"),
        ({"subnetwork": {"blocks": ["blocks.2"]}}, "block 'blocks.2' cannot be left out"),
        ({"early_bird": {1: 2}}, "unknown EarlyBirdConfig option '1'"),
        ({"early_bird": {}, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options_are_refused(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        trained(**options)


def test_nets_that_cannot_be_made_cheaper_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    for options, words in (
        ({"subnetwork": {}}, "none was found in Sequential"),
        ({"early_bird": {}}, "BatchNorm layers, and Sequential has none"),
    ):
        with pytest.raises(ValueError, match=words):
            train_on_subset(model, DATA, SUBSET, epochs=1, device="cpu", **options)
