"""Progressive subnetworks: plain training at full length, no trace of a skipped block, the bill."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18, resnet50

from lipt_cords import LiPTWarmStart
from lipt_cords.models.build import build_model
from lipt_cords.models.nets import WideResNet
from lipt_cords.training.cheaper.path_schedule import PathSchedule, SubnetworkConfig
from lipt_cords.training.cheaper.paths import Paths, block_shares, residual_blocks

LOSS = nn.CrossEntropyLoss()


def batch(size: int = 4, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, side, side, generator=draws), torch.arange(size) % 3


def net(name: str = "resnet20") -> nn.Module:
    return build_model(name, 3, in_channels=3, image_size=8, seed=0)


class Encoder(nn.Module):
    """Tokens through a transformer encoder."""

    def __init__(self, layers: int = 4, norm_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.encoder(x).mean(1))
        return logits


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (net("resnet8"), 1), (net("resnet20"), 7), (WideResNet(16, 2, 3), 3), (resnet18(), 5),
        (resnet50(), 12), (Encoder(4), 4),
    ],
)  # fmt: skip
def test_blocks_with_an_identity_shortcut_are_found(model: nn.Module, blocks: int) -> None:
    assert len(residual_blocks(model)) == blocks


def test_blocks_by_name_and_nets_without_any() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    assert [b.name for b in residual_blocks(plain, ["0"])] == ["0"]
    with pytest.raises(ValueError, match="none was found in Sequential"):
        residual_blocks(plain)
    with pytest.raises(ValueError, match="names '9', which is not a module"):
        residual_blocks(plain, ["9"])


def step(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        LOSS(model(inputs), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("model", [net("resnet20"), WideResNet(16, 2, 3), Encoder(3)])
def test_full_length_is_plain_training_bit_for_bit(model: nn.Module) -> None:
    inputs, labels = (
        batch() if not isinstance(model, Encoder) else (torch.randn(4, 5, 8), batch()[1])
    )
    plain, pathed = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    whole = len(residual_blocks(model))
    paths = Paths(pathed, SubnetworkConfig(lengths=(whole,)), 2, 0)
    with paths.applied():
        paths.choose(0)
        step(pathed, inputs, labels)
    step(plain, inputs, labels)
    for (name, one), two in zip(
        plain.state_dict().items(), pathed.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("scaling", ["none", "sqrt", "inverse"])
def test_a_skipped_block_leaves_no_trace_and_the_others_are_rescaled(scaling: str) -> None:
    model = net("resnet20").train()
    config = SubnetworkConfig(lengths=(3, 7), scaling=scaling)  # type: ignore[arg-type]
    paths = Paths(model, config, 10, 0)
    before = copy.deepcopy(model.state_dict())
    inputs, labels = batch()
    outputs: dict[int, torch.Tensor] = {}
    with paths.applied():
        runs = paths.choose(0)
        assert sum(runs) == 3 and runs[0] and runs[-1]
        LOSS(model(inputs), labels).backward()
        for number, block in enumerate(paths.found):
            gradients = [p.grad is not None for p in block.module.parameters()]
            assert all(gradients) if runs[number] else not any(gradients)
            for name, value in block.module.state_dict().items():
                moved = not torch.equal(value, before[f"{block.name}.{name}"])
                assert moved == (
                    (runs[number] and "running" in name) or (runs[number] and "num" in name)
                )
            if runs[number]:
                branch = block.module.branch
                x = torch.randn(2, next(branch.parameters()).shape[1], 4, 4)
                branch.eval()
                outputs[number] = branch(x) / branch[4](
                    branch[3](branch[2](branch[1](branch[0](x))))
                )
                branch.train()
    factor = {"none": 1.0, "sqrt": (7 / 3) ** 0.5, "inverse": 7 / 3}[scaling]
    for ratio in outputs.values():
        assert torch.allclose(ratio[ratio.isfinite()], torch.tensor(factor), rtol=1e-4)
    assert all("forward" not in vars(block.module) for block in paths.found)
    assert not any(m._forward_hooks for m in model.modules())
    assert list(model.state_dict()) == list(before)


def test_hooks_go_even_if_training_fails() -> None:
    model = net("resnet20")
    paths = Paths(model, SubnetworkConfig(), 4, 0)
    with pytest.raises(ZeroDivisionError), paths.applied():
        raise ZeroDivisionError
    assert not any(m._forward_hooks for m in model.modules())
    assert not any("forward" in vars(m) for m in model.modules())


@settings(max_examples=60)
@given(data=st.data(), blocks=st.integers(1, 14), steps=st.integers(1, 40), seed=st.integers(0, 9))
def test_paths_have_their_length_and_grow(
    data: st.DataObject, blocks: int, steps: int, seed: int
) -> None:
    kept = data.draw(st.lists(st.integers(0, blocks - 1), max_size=blocks, unique=True))
    shortest = max(1, len(kept))
    lengths = [*sorted(data.draw(st.lists(st.integers(shortest, blocks), max_size=4))), blocks]
    config = SubnetworkConfig(lengths=tuple(lengths), always=tuple(kept))
    schedule = PathSchedule(config, blocks, steps)
    seen = 0
    for number in range(steps):
        path = schedule.path(number, seed, "w")
        length = schedule.stage(number).length
        assert sum(path) == length >= seen and all(path[k] for k in kept)
        assert sum(schedule.chances(number)) == pytest.approx(length)
        assert path == schedule.path(number, seed, "w")
        seen = length
    assert schedule.stage(steps - 1).length == blocks or steps < len(lengths)


def test_bernoulli_and_stochastic_depth_keep_their_rates() -> None:
    for config in (
        SubnetworkConfig(lengths=(4, 8), paths="bernoulli", always=(0,)),
        SubnetworkConfig(control="stochastic-depth", survival=0.4),
    ):
        schedule = PathSchedule(config, 8, 4000)
        rates = torch.zeros(8)
        for number in range(2000):
            rates += torch.tensor(schedule.path(number, 1), dtype=torch.float32)
        wanted = torch.tensor(schedule.chances(0))
        assert (rates / 2000 - wanted).abs().max() < 0.05
    assert schedule.chances(0)[-1] == pytest.approx(0.4)
    assert schedule.scales(0)[-1] == pytest.approx(2.5)


def test_counted_operations_are_those_of_the_plan() -> None:
    model, steps = net("resnet20").train(), 24
    inputs, labels = batch()
    config = SubnetworkConfig(lengths=(3, 5, 7))
    shares = block_shares(model, inputs, labels, LOSS, config)
    assert len(shares) == 7 and 0.5 < sum(shares) < 1
    with FlopCounterMode(display=False) as counter:
        LOSS(model(inputs), labels).backward()
    whole = counter.get_total_flops()
    paths = Paths(model, config, steps, 0)
    with paths.applied(), FlopCounterMode(display=False) as counter:
        for number in range(steps):
            paths.choose(number)
            LOSS(model(inputs), labels).backward()
    counted = counter.get_total_flops() / (steps * whole)
    assert counted == pytest.approx(paths.spent(shares) / steps, rel=1e-9)
    stages = paths.stages(shares)
    assert sum(stage["steps"] for stage in stages) == steps
    assert counted == pytest.approx(sum(s["counted"] for s in stages) / steps, rel=1e-9)
    assert counted == pytest.approx(sum(s["planned"] for s in stages) / steps, rel=0.01)


def data(size: int = 96) -> TensorDataset:
    draws = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(size, 3, 8, 8, generator=draws), torch.arange(size) % 3)


def fitted(**options: Any) -> Any:
    return LiPTWarmStart(
        num_workers=2, common_steps=2, local_steps=8, batch_size=8, sparsity="none",
        precision="fp32", device="cpu", **options,
    ).fit(net(), data())  # fmt: skip


def test_workers_train_paths_of_their_own_with_the_same_bits_everywhere() -> None:
    whole, paths = fitted(), fitted(subnetwork={"lengths": (3, 7)}, keep_workers=True)
    # Half the steps leave out four of seven blocks.
    inputs, labels = data()[:2][0], data()[:2][1]
    shares = block_shares(net(), inputs, labels, LOSS, SubnetworkConfig())
    for one in paths.report.workers:
        assert one.work == pytest.approx(1 - 0.5 * 4 / 7 * sum(shares), abs=0.03)
    told = paths.report.stages
    assert [(s["length"], s["steps"]) for s in told] == [(3, 8), (7, 8)]  # two workers, four each
    assert told[1]["planned"] == told[1]["counted"] == told[1]["passes"] == 8 * 8
    assert told[0]["planned"] == pytest.approx(told[0]["counted"], rel=0.1)
    assert paths.report.passes == whole.report.passes
    assert paths.report.flops < whole.report.flops
    again = fitted(subnetwork={"lengths": (3, 7)}, launch="processes", processes=2, threads=1)
    serial = fitted(subnetwork={"lengths": (3, 7)}, threads=1)
    for name, value in serial.state_dict.items():
        assert torch.equal(value, again.state_dict[name]), name
    assert again.report.flops == serial.report.flops
    equal = fitted(subnetwork={"lengths": (7,)})
    for name, value in whole.state_dict.items():
        assert torch.equal(value, equal.state_dict[name]), name
    assert equal.report.flops == whole.report.flops


def test_rounds_go_on_in_the_schedule_and_the_bill_adds_up() -> None:
    rounds = fitted(subnetwork={"lengths": (3, 7)}, rounds=2)
    first, second = rounds.report.rounds
    assert first.work < 0.8 * first.passes and second.work - second.passes == pytest.approx(0)
    spent = rounds.report.flops / (rounds.report.passes or 1)
    assert spent < fitted(rounds=2).report.flops / rounds.report.passes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (3, 5)}, "the last stage must train the whole net"),
        ({"lengths": (1, 7)}, "expected from 2"),
        ({"lengths": (3, 9)}, r"to 7 \(blocks that can be left out\)"),
        ({"lengths": (3, 7), "shares": (1.0,)}, "give one share of the steps for each length"),
        ({"always": (8,)}, "keeps block 8, but the net has 7"),
        ({"shares": (0.5, 0.6)}, "add up to 1"),
        ({"lengths": ()}, "at least 1"),
        ({"scaling": "squrt"}, "Did you mean 'sqrt'"),
        ({"length": (3,)}, "Did you mean 'lengths'"),
        ({"blocks": ("nothing",)}, "not a module of the net"),
    ],
)
def test_bad_schedules_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(subnetwork=options)


def test_what_does_not_go_together_is_refused() -> None:
    for options in ({"compile": True}, {"together": 2}):
        with pytest.raises(ValueError, match="trains neither compiled nor together"):
            fitted(subnetwork={}, **options)
    with pytest.raises(ValueError, match="expected options by name"):
        fitted(subnetwork="raptr")
    with pytest.raises(ValueError, match="needs residual blocks"):
        LiPTWarmStart(subnetwork={}, num_workers=2, batch_size=8).fit(
            build_model("cnn", 3, in_channels=3, image_size=8), data()
        )
    controlled = fitted(subnetwork={"lengths": (3,), "control": "constant"})
    assert controlled.report.workers[0].work < 0.7
