from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lipt_cords.cords.contract import make_cords_compatible
from lipt_cords.models.build import MODEL_NAMES, build_model, canonical_model_name
from lipt_cords.models.heads import find_head

LARGE = ("wrn-28-10", "resnet50", "wide_resnet50_2")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if name not in LARGE])
def test_every_small_net_runs_and_is_usable_by_cords(name):
    model = build_model(name, 7, in_channels=1, image_size=28).eval()
    head = find_head(model, sample=torch.rand(2, 1, 28, 28))
    logits, embeddings = make_cords_compatible(model, head.name)(
        torch.rand(2, 1, 28, 28), last=True, freeze=True
    )
    assert logits.shape == (2, 7) and embeddings.shape == (2, head.module.in_features)
    torch.testing.assert_close(head.module(embeddings), logits)


@pytest.mark.parametrize("name", LARGE)
def test_large_nets_have_one_head_and_the_right_shapes(name):
    with torch.device("meta"):
        model = build_model(name, 100)
        logits = model.eval()(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 100)
    assert find_head(model).module.out_features == 100


@pytest.mark.parametrize(
    ("name", "count"), [("resnet20", 0.272e6), ("resnet56", 0.855e6), ("wrn-28-10", 36.5e6)]
)
def test_sizes_are_those_published(name, count):
    with torch.device("meta"):
        assert parameters(build_model(name, 10)) == pytest.approx(count, rel=0.02)


def test_the_small_cnn_serves_digits_and_fashion_mnist():
    model = build_model("cnn", 10, in_channels=1, image_size=8)
    assert 18_000 < parameters(model) < 22_000
    for side in (8, 28):
        assert model(torch.rand(2, 1, side, side)).shape == (2, 10)


def test_small_images_keep_their_resolution_in_torchvision_nets():
    with torch.device("meta"):
        small = build_model("resnet18", 10, image_size=32)
        large = build_model("resnet18", 10, image_size=224, in_channels=4)
    assert small.conv1.stride == (1, 1) and isinstance(small.maxpool, nn.Identity)
    assert large.conv1.stride == (2, 2) and isinstance(large.maxpool, nn.MaxPool2d)
    assert large.conv1.in_channels == 4
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        small.eval()(torch.rand(1, 3, 32, 32))
    assert counter.get_total_flops() == pytest.approx(1.11e9, rel=0.02)


def test_seeds_give_the_weights_and_leave_the_random_state():
    before = torch.get_rng_state()
    one, same, other = (build_model("resnet8", 10, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    pairs = zip(one.state_dict().values(), same.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_activations_keep_their_scale_at_the_start():
    model = build_model("resnet20", 10).train()
    logits = model(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert 0.05 < logits.std().item() < 5


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("ResNet18", "resnet18"),
        ("MnistNet", "cnn"),
        ("WideResNet50_2", "wide_resnet50_2"),
        ("wide-resnet50-2", "wide_resnet50_2"),
        ("WRN-28-10", "wrn-28-10"),
    ],
)
def test_other_spellings(spelling, name):
    assert canonical_model_name(spelling) == name


def test_wrong_names_and_sizes_are_refused():
    with pytest.raises(ValueError, match="unknown model 'resnet81'.*Did you mean 'resnet8'"):
        build_model("resnet81", 10)
    with pytest.raises(ValueError, match="num_classes must be at least 1, received 0"):
        build_model("cnn", 0)
    with pytest.raises(ValueError, match="in_channels must be at least 1, received -1"):
        build_model("cnn", 10, in_channels=-1)
