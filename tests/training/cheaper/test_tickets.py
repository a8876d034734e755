"""Early-Bird tickets: the masks as published, real surgery, and the map back to the given net."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, resnet50, vgg11_bn

from lipt_cords.models.build import build_model
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.models.nets import WideResNet
from lipt_cords.models.state import tensor_state
from lipt_cords.training.cheaper.channels import ChannelGroups, scaled_batchnorms, ticket_mask
from lipt_cords.training.cheaper.tickets import (
    EarlyBirdConfig,
    Ticket,
    TicketSearch,
    distance,
    penalise_scales,
)
from lipt_cords.warmstart.merge.average import average_weights


def images(side: int = 16, channels: int = 3, count: int = 4) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def scattered(model: nn.Module, seed: int = 0) -> nn.Module:
    """A net whose BatchNorm scales, shifts and statistics are anything."""
    draws = torch.Generator().manual_seed(seed)
    for layer in scaled_batchnorms(model).values():
        layer.weight.data = torch.rand(layer.num_features, generator=draws) + 0.05
        layer.bias.data = torch.randn(layer.num_features, generator=draws) * 0.3
        layer.running_mean = torch.randn(layer.num_features, generator=draws) * 0.1
        layer.running_var = torch.rand(layer.num_features, generator=draws) + 0.5
    return model.eval()


def ticket_of(model: nn.Module, example: torch.Tensor, ratio: float) -> Ticket:
    groups = ChannelGroups(model, example)
    search = TicketSearch(EarlyBirdConfig(ratio=ratio), groups)
    search.add_mask(model.state_dict())
    return Ticket.cut(model, groups, example, *search.choose())


NETS = {
    "resnet8": lambda: build_model("resnet8", 10, seed=0),
    "resnet20": lambda: build_model("resnet20", 10, seed=0),
    "cnn": lambda: build_model("cnn", 10, image_size=16, seed=0),
    "wrn": lambda: WideResNet(16, 2, 10),
    "resnet18": lambda: resnet18(num_classes=10),
    "resnet50": lambda: resnet50(num_classes=10),
    "mobilenet": lambda: mobilenet_v2(num_classes=10),
}


@pytest.mark.parametrize("name", NETS)
def test_the_smaller_net_computes_what_the_zeroed_one_does(name: str) -> None:
    model, inputs = scattered(NETS[name]()), images()
    ticket = ticket_of(model, inputs, 0.5)
    small, zeroed = ticket.build(model).eval(), copy.deepcopy(model)
    for layer_name, layer in scaled_batchnorms(zeroed).items():
        gone = torch.ones(layer.num_features, dtype=torch.bool)
        gone[ticket.kept[layer_name]] = False
        layer.weight.data[gone] = 0
        layer.bias.data[gone] = 0
    mapped = copy.deepcopy(model)
    mapped.load_state_dict(ticket.expand(tensor_state(small)))
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), zeroed(inputs), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(small(inputs), mapped(inputs), atol=1e-5, rtol=1e-5)
    weights = [sum(p.numel() for p in net.parameters()) for net in (small, model)]
    assert weights[0] < 0.55 * weights[1]
    assert ticket.share_kept == pytest.approx(0.5, abs=0.02)


def test_vgg_keeps_its_flattened_positions_apart() -> None:
    model = vgg11_bn(num_classes=10)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 10))
    scattered(model)
    ticket = ticket_of(model, images(32), 0.3)
    small = ticket.build(model).eval()
    kept = len(ticket.kept["features.26"])
    assert small.classifier[0].in_features == 49 * kept
    with torch.no_grad():
        zeroed = copy.deepcopy(model)
        zeroed.load_state_dict(ticket.expand(tensor_state(small)))
        torch.testing.assert_close(small(images(32)), zeroed(images(32)), atol=1e-5, rtol=1e-5)


def test_the_smaller_nets_gradients_are_the_zeroed_nets() -> None:
    model, inputs = scattered(build_model("resnet8", 10, seed=0)), images(count=12)
    ticket = ticket_of(model, inputs, 0.5)
    zeroed = copy.deepcopy(model)
    zeroed.load_state_dict(ticket.expand(tensor_state(ticket.build(model))))
    data = torch.utils.data.TensorDataset(inputs, torch.arange(12) % 10)
    small, whole = (last_layer_gradients(n, data) for n in (ticket.build(model), zeroed))
    torch.testing.assert_close(small.gram(), whole.gram(), atol=1e-5, rtol=1e-4)


def test_nothing_removed_gives_the_bits_of_plain_training() -> None:
    model, inputs = build_model("resnet8", 10, seed=0), images()
    groups = ChannelGroups(model, inputs)
    everything = {n: torch.arange(m.num_features) for n, m in scaled_batchnorms(model).items()}
    nets = [Ticket.cut(model, groups, inputs, everything).build(model), copy.deepcopy(model)]
    for net in nets:
        net.train()
        sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            sgd.zero_grad()
            nn.functional.cross_entropy(net(inputs), torch.arange(4)).backward()
            sgd.step()
    assert all(
        torch.equal(a, b)
        for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True)
    )


def test_streams_lose_the_same_channels() -> None:
    model = build_model("resnet20", 10, seed=0)
    groups = ChannelGroups(model, images())
    parts = dict(zip(groups.names, torch.split(groups.group_of, groups.sizes), strict=True))
    stream = [parts["stem.1"], *(parts[f"blocks.{n}.branch.4"] for n in range(3))]
    assert all(torch.equal(one, stream[0]) for one in stream)
    inner = parts["blocks.0.branch.1"]
    assert not torch.isin(inner, stream[0]).any()
    torn = {n: torch.arange(s) for n, s in zip(groups.names, groups.sizes, strict=True)}
    torn["stem.1"] = torn["stem.1"][1:]
    with pytest.raises(ValueError, match="must be kept or removed together"):
        Ticket.cut(model, groups, images(), torn)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.floats(0, 0.99))
def test_the_mask_is_strictly_above_the_quantile(values: list[int], ratio: float) -> None:
    scales = torch.tensor(values, dtype=torch.float64)
    mask = ticket_mask(scales, ratio)
    going = int(ratio * len(values))
    threshold = sorted(values)[going - 1] if going else -1
    assert mask.tolist() == [value > threshold for value in values]
    assert int((~mask).sum()) >= going


def test_a_layer_that_would_vanish_keeps_a_group_and_is_named() -> None:
    model = scattered(build_model("resnet8", 10, seed=0))
    dict(model.named_modules())["blocks.1.branch.1"].weight.data.fill_(1e-6)
    groups = ChannelGroups(model, images())
    search = TicketSearch(EarlyBirdConfig(ratio=0.4), groups)
    search.add_mask(model.state_dict())
    kept, rescued = search.choose()
    assert rescued == ["blocks.1.branch.1"] and len(kept["blocks.1.branch.1"]) == 1
    small = Ticket.cut(model, groups, images(), kept, rescued).build(model)
    assert dict(small.named_modules())["blocks.1.branch.1"].num_features == 1


def test_the_ticket_is_drawn_when_the_whole_window_agrees() -> None:
    model = build_model("cnn", 10, image_size=16, seed=0)
    scattered(model)
    groups = ChannelGroups(model, images())
    search = TicketSearch(EarlyBirdConfig(ratio=0.5, window=3, epsilon=0.0), groups)
    states = [copy.deepcopy(scattered(model, seed).state_dict()) for seed in (1, 2)]
    assert [search.add_mask(states[k]) for k in (0, 1, 0, 0, 0)] == [False] * 4 + [True]
    matrix = torch.tensor(search.distances())
    assert matrix.shape == (5, 5) and torch.equal(matrix, matrix.T) and matrix.diag().sum() == 0
    assert matrix[0, 1] == distance(search.masks[0], search.masks[1]) > 0


def test_the_penalty_is_the_gradient_of_the_l1_norm() -> None:
    model = scattered(build_model("cnn", 10, image_size=16, seed=0)).train()
    layers, inputs = scaled_batchnorms(model), images()
    loss = model(inputs).sum() + 0.3 * sum(layer.weight.abs().sum() for layer in layers.values())
    loss.backward()
    wanted = [layer.weight.grad.clone() for layer in layers.values()]
    model.zero_grad()
    model(inputs).sum().backward()
    penalise_scales(layers, 0.3)
    for layer, gradient in zip(layers.values(), wanted, strict=True):
        torch.testing.assert_close(layer.weight.grad, gradient)


def test_nets_without_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm layers, and Sequential has none"):
        ChannelGroups(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), images())


def between(module: nn.Module) -> nn.Sequential:
    """A net with something between BatchNorm and the head."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), module, nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3))
    return scattered(model)


def test_what_follows_may_shift_a_channel_but_not_mix_it_with_others() -> None:
    model = between(nn.Sigmoid())  # one half where a channel is zero, and no weight that reads it
    before = copy.deepcopy(model.state_dict())
    assert ticket_of(model, images(), 0.5).share_kept == 0.5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="does not compute the same with channels at zero"):
        ticket_of(between(nn.GroupNorm(1, 8)), images(), 0.5)


class Reshapes(nn.Module):
    """A net that counts its channels itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x)).view(len(x), 8, -1).mean(2)
        logits: torch.Tensor = self.head(x)
        return logits


def test_a_net_that_counts_its_channels_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="does not run without some of its channels"):
        ticket_of(scattered(Reshapes()), images(), 0.5)


class Shared(nn.Module):
    """A net with its layers under two names, and with a bound of its own on every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.features = nn.Sequential(self.conv, self.bn, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x).flatten(1))
        return logits


def test_layers_under_two_names_are_cut_once() -> None:
    model = scattered(Shared())
    small = ticket_of(model, images(), 0.5).build(model)
    assert small.features[0] is small.conv and small.conv.out_channels == 4
    assert small.state_dict()["features.0.weight"].shape == (4, 3, 3, 3)


def test_a_head_of_zeros_hides_nothing() -> None:
    model = between(nn.GroupNorm(1, 8))
    nn.init.zeros_(model[-1].weight)
    with pytest.raises(ValueError, match="does not compute the same with channels at zero"):
        ticket_of(model, images(), 0.5)


def test_outputs_are_not_removed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="whose channels are its outputs"):
        ticket_of(scattered(model), images(), 0.5)


def grouped(groups: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, groups=groups)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("seed", range(4))
def test_convolutions_with_a_group_a_channel_are_cut(seed: int) -> None:
    model, inputs = scattered(grouped(16), seed), images()
    ticket = ticket_of(model, inputs, 0.5)
    small = ticket.build(model)
    assert small[2].weight.shape == (8, 1, 3, 3) and small[2].groups == 8
    zeroed = copy.deepcopy(model)
    zeroed.load_state_dict(ticket.expand(tensor_state(small)))
    torch.testing.assert_close(small(inputs), zeroed(inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_convolutions_with_wider_groups_are_refused_in_words(seed: int, ratio: float) -> None:
    with pytest.raises(ValueError, match="leave early_bird out"):
        ticket_of(scattered(grouped(4), seed), images(), ratio)


def test_states_of_different_tickets_are_not_averaged() -> None:
    model = scattered(build_model("resnet8", 10, seed=0))
    states = [tensor_state(ticket_of(model, images(), ratio).build(model)) for ratio in (0.3, 0.5)]
    with pytest.raises(ValueError, match="average models of one|has shape"):
        average_weights(states)


def test_a_ticket_survives_a_file() -> None:
    model = scattered(resnet18(num_classes=10))
    ticket = ticket_of(model, images(), 0.3)
    again = Ticket.parse(ticket.tensors(), ticket.details())
    one, other = (t.build(model).state_dict() for t in (ticket, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again.kept.keys() == ticket.kept.keys()
