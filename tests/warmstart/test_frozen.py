"""What a user keeps in eval mode or frozen has the same bits after everything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from warmstart_material import make_images

from lipt_cords import LiPTWarmStart, WarmStartResult, last_layer_gradients, train_on_subset
from lipt_cords.base.randomness import isolated_rng
from lipt_cords.models.modes import frozen_entries, kept_in_eval, train_as_given
from lipt_cords.warmstart import average_weights, register_codec, register_outer

DATA, HELD_OUT = make_images(48), make_images(24, seed=1)


class Net(nn.Module):
    """A "pretrained" backbone with statistics and weights of -0.0, and a body to be trained."""

    def __init__(self, held: bool = False) -> None:
        super().__init__()
        with isolated_rng(0, "frozen"):
            self.backbone = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
            )
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
            self.fc = nn.Linear(4 * 36, 4)
            norm = self.backbone[1]
            norm.running_mean.normal_()
            norm.running_mean[0] = -0.0
            norm.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                self.backbone[0].weight[0] = -0.0
        self.held = held

    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        if self.held:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.backbone(x)).flatten(1))


def by_eval() -> nn.Module:
    net = Net()
    net.backbone.eval()
    return net


def by_train() -> nn.Module:
    return Net(held=True)


def by_train_of_a_net_in_eval_mode() -> nn.Module:
    return Net(held=True).eval()


def by_weights() -> nn.Module:
    net = Net()
    net.backbone.requires_grad_(False)
    return net


def by_weights_around_a_norm_without_any() -> nn.Module:
    net = by_weights()
    before = net.backbone[1]
    net.backbone[1] = nn.BatchNorm2d(4, affine=False)
    net.backbone[1].running_mean.copy_(before.running_mean)
    return net


def by_momentum() -> nn.Module:
    net = Net()
    net.backbone[1].momentum = 0.0
    net.backbone[1].running_mean[0] = 0.5  # torch itself makes 0.0 of -0.0 then
    return net


WAYS = (
    by_eval, by_train, by_train_of_a_net_in_eval_mode, by_weights,
    by_weights_around_a_norm_without_any, by_momentum,
)  # fmt: skip
STATISTICS = {"backbone.1.running_mean", "backbone.1.running_var"}


def bits(state: dict[str, Tensor], names: set[str]) -> dict[str, bytes]:
    return {name: state[name].numpy().tobytes() for name in sorted(names & state.keys())}


def require_kept(before: nn.Module, after: dict[str, Tensor]) -> None:
    kept = frozen_entries(before)
    assert kept >= STATISTICS
    assert bits(after, kept) == bits(before.state_dict(), kept)
    assert not torch.equal(after["body.1.running_mean"], before.state_dict()["body.1.running_mean"])


def fit(model: nn.Module, held_out: bool = True, **options: object) -> WarmStartResult:
    given = {"num_workers": 3, "common_steps": 3, "epochs": 1, "batch_size": 8, "lr": 0.05}
    warm = LiPTWarmStart(**{**given, **options}, launch="serial")
    return warm.fit(model, DATA, HELD_OUT if held_out else None)


@register_codec("rounding")
def rounding(origin, members, wire):  # type: ignore[no-untyped-def]
    """Like a codec that sends fewer bits."""
    from lipt_cords.warmstart.merge.codecs import exact

    mean = exact(origin, members, wire)
    return {
        name: v.bfloat16().to(v.dtype) if v.is_floating_point() else v for name, v in mean.items()
    }


@register_outer("shrinking")
def shrinking(start, average, memory, *, trained, config):  # type: ignore[no-untyped-def]
    """Decay of all entries."""
    return {n: (v * 0.9).to(v.dtype) for n, v in average.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "options",
    [
        {"held_out": False},
        {"batchnorm_refresh": "always", "soup": "greedy", "density": 0.5},
        {
            "rounds": 2,
            "outer": "nesterov",
            "ema": 0.9,
            "sparsity": "snip",
            "augmentation": "randaugment",
        },
        {"together": 3, "ema": 0.9, "common_steps": 0},
        {"codec": "rounding", "outer": "shrinking", "rounds": 2},
    ],
    ids=str,
)
def test_a_warm_start_keeps_it(way: Callable[[], nn.Module], options: dict[str, object]) -> None:
    model = way()
    before = copy.deepcopy(model)
    modes = [module.training for module in model.modules()]
    result = fit(model, **options)
    require_kept(before, result.state_dict)
    require_kept(before, result.theta_star | {
        "body.1.running_mean": result.state_dict["body.1.running_mean"]
    })  # fmt: skip
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in result.model().modules()] == modes


@pytest.mark.parametrize("way", WAYS)
def test_training_on_a_subset_keeps_it(way: Callable[[], nn.Module]) -> None:
    model = way()
    before = copy.deepcopy(model)
    train_on_subset(model, DATA, range(24), val_dataset=HELD_OUT, epochs=2, batch_size=8)
    require_kept(before, model.state_dict())
    last_layer_gradients(model, DATA)
    require_kept(before, model.state_dict())


@pytest.mark.parametrize("way", [by_eval, by_weights, by_momentum])
def test_unlearning_keeps_it(way: Callable[[], nn.Module]) -> None:
    model = way()
    result = fit(model, keep_workers=True)
    require_kept(model, result.forget([0, 5]).add([0]).state_dict)


@pytest.mark.parametrize("way", [by_eval, by_weights, by_momentum])
@pytest.mark.parametrize("warm", [True, False])
def test_a_ticket_cuts_only_what_trains(way: Callable[[], nn.Module], warm: bool) -> None:
    pytest.importorskip("torch_pruning")
    model = way()
    before = copy.deepcopy(model)
    ticket = {"ratio": 0.5, "latest": 0.5}
    if warm:
        result = fit(model, common_steps=8, early_bird=ticket)
        state, kept = result.state_dict, result.ticket.kept  # type: ignore[union-attr]
    else:
        done = train_on_subset(model, DATA, range(24), epochs=3, batch_size=8, early_bird=ticket)
        state = model.state_dict()
        kept = {"body.1": done.ticket_net.body[1].weight, "backbone.1": torch.zeros(4)}  # type: ignore[union-attr]
    require_kept(before, state)
    assert len(kept["body.1"]) == 2
    assert len(kept["backbone.1"]) == 4


def test_a_frozen_backbone_is_a_fixed_map() -> None:
    """The soup is that of a head on features that were computed by hand."""
    model = nn.Sequential(Net().backbone, nn.Flatten(), nn.Linear(256, 4))
    model[0].eval().requires_grad_(False)
    with torch.no_grad():
        features = TensorDataset(model[:2](DATA.tensors[0]), DATA.tensors[1])
    options = {"num_workers": 3, "common_steps": 4, "epochs": 2, "batch_size": 8}
    whole = LiPTWarmStart(**options).fit(model, DATA)
    by_hand = LiPTWarmStart(**options).fit(model[2], features)
    for name in ("weight", "bias"):
        torch.testing.assert_close(whole.state_dict[f"2.{name}"], by_hand.state_dict[name])
    (note,) = [note for note in whole.report.notes if "in eval mode" in note]
    assert note.endswith("stayed: 0") and "in eval mode" not in str(by_hand.report.notes)


def test_equal_weights_average_to_their_bits() -> None:
    values = torch.tensor([0.1, -0.0, 1e-300, 3.3], dtype=torch.float64)
    mean = average_weights([{"w": values}] * 3, [0.3, 0.3, 0.1])["w"]
    assert mean.numpy().tobytes() == values.numpy().tobytes()


def test_a_net_in_eval_mode_trains_as_a_whole() -> None:
    model = Net().eval()
    assert kept_in_eval(model) == []
    train_as_given(model)
    assert all(module.training for module in model.modules())
    same = [fit(one, common_steps=2).state_dict for one in (Net(), Net().eval())]
    assert all(torch.equal(value, same[1][name]) for name, value in same[0].items())


class WithOwnBuffer(nn.Module):
    """Centres its inputs by a running mean that is not in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)
        self.register_buffer("mean", torch.zeros(64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean += 0.5 * (x.flatten(1).mean(0).detach() - self.mean)
        return self.fc(x.flatten(1) - self.mean)


def test_buffers_outside_of_the_state_do_not_depend_on_who_trained_the_start(
    tmp_path: Path,
) -> None:
    """A run that resumes has not trained the common start, and neither have other ranks."""
    model = WithOwnBuffer()
    whole = fit(model, rounds=2)

    def stop(report: object, state: object) -> None:
        raise KeyError("stopped")

    warm = LiPTWarmStart(
        num_workers=3, common_steps=3, epochs=1, batch_size=8, lr=0.05, rounds=2,
        work_dir=tmp_path, launch="serial",
    )  # fmt: skip
    with pytest.raises(KeyError, match="stopped"):
        warm.fit(model, DATA, HELD_OUT, on_round=stop)
    resumed = warm.fit(model, DATA, HELD_OUT)
    for name, value in whole.state_dict.items():
        assert torch.equal(value, resumed.state_dict[name])
