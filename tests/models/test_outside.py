"""Nets of timm and of a user's module, by name."""

from __future__ import annotations

import sys

import pytest
import torch
from outside_net import CALLS

from lipt_cords.models import build_model
from lipt_cords.models.heads import find_head

SMALL = {"in_channels": 1, "image_size": 8}


@pytest.mark.parametrize("name", ["sized", "anything", "fixed"])
def test_a_function_gets_what_it_takes_and_draws_from_the_seed(name: str) -> None:
    one, same, other = (
        build_model(f"outside_net:{name}", 10, seed=seed, **SMALL) for seed in (3, 3, 4)
    )
    assert find_head(one).module.out_features == 10
    assert torch.equal(one[1].weight, same[1].weight)
    assert not torch.equal(one[1].weight, other[1].weight)
    if name == "anything":
        assert CALLS[-1] == {"num_classes": 10, "in_channels": 1, "image_size": 8}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("outside_net:siezd", "unknown function in outside_net 'siezd'.*Did you mean 'sized'"),
        ("outside_net:ready", "is a Linear: expected a function that makes a net"),
        ("outside_net:CALLS", "is a list: expected a function"),
        ("outside_net:picky", "needs 'depth'.*num_classes, in_channels, image_size"),
        ("outside_net:nothing", "is built as a list: expected a torch.nn.Module"),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("timm:resnet81", "timm .* has no model 'resnet81'.*Did you mean 'resnet"),
        ("timm:vit_tiny_patch16_224", "timm has no .* 8 pixels.*dataset.image_size"),
    ],
)
def test_what_is_no_net_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_model(name, 10, **SMALL)


def test_a_net_that_is_returned_again_is_refused() -> None:
    kept = build_model("outside_net:kept", 10, **SMALL)
    with pytest.raises(ValueError, match="the net that it had returned before.*a new one at every"):
        build_model("outside_net:kept", 10, **SMALL)
    assert isinstance(kept, torch.nn.Module)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_nets_of_timm_read_the_images_of_the_data(name: str) -> None:
    model = build_model(f"timm:{name}", 7, in_channels=1, image_size=32).eval()
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    again = build_model(f"timm:{name}", 7, in_channels=1, image_size=32)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'lipt-cords\[timm\]'"):
        build_model("timm:resnet18", 10)
