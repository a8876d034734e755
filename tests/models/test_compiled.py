"""Networks of torch.compile work as those inside of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart, last_layer_gradients, train_on_subset
from lipt_cords.cords.contract import make_cords_compatible, remove_cords_contract
from lipt_cords.models import find_head

X = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, torch.arange(48) % 3)
WARM = LiPTWarmStart(num_workers=2, common_steps=2, epochs=1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def around() -> nn.Module:
    return torch.compile(net(), backend="eager")  # type: ignore[return-value]


def in_place() -> nn.Module:
    model = net()
    model.compile(backend="eager")
    return model


def within() -> nn.Module:
    model = net()
    model[3] = torch.compile(model[3], backend="eager")  # type: ignore[assignment]
    return model


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("build", [around, in_place, within])
def test_as_the_network_inside_after_an_evaluation(build: Callable[[], nn.Module]) -> None:
    plain, model = net(), build()
    with torch.no_grad():
        model.eval()(X)
    model.train()
    ours, theirs = last_layer_gradients(plain, DATA), last_layer_gradients(model, DATA)
    assert torch.equal(ours.logit_grads, theirs.logit_grads)
    one, other = WARM.fit(plain, DATA, DATA), WARM.fit(model, DATA, DATA)
    for name, value in other.state_dict.items():
        assert torch.equal(value, one.state_dict[name.replace("_orig_mod.", "")])
    assert torch.equal(one.gradients(DATA).logits, other.gradients(DATA).logits)
    other.apply_to(model)
    train_on_subset(model, DATA, range(24), val_dataset=DATA, epochs=1)
    train_on_subset(one.apply_to(plain), DATA, range(24), val_dataset=DATA, epochs=1)
    assert all(map(torch.equal, plain.parameters(), model.parameters()))


def test_names_of_heads() -> None:
    model = around()
    for head in ("3", "_orig_mod.3"):
        assert last_layer_gradients(model, DATA, head=head).num_classes == 3


@pytest.mark.parametrize(
    ("build", "used"), [(around, True), (in_place, True), (in_place, False), (within, False)]
)
def test_the_contract_of_cords(build: Callable[[], nn.Module], used: bool) -> None:
    model = build().eval()
    before = model(X) if used else None
    make_cords_compatible(model, head=find_head(model, sample=X[:2]).name)
    for _ in range(2):
        logits, embeddings = model(X, last=True, freeze=True)
        assert embeddings.shape == (48, 16)
        assert not embeddings.requires_grad
        assert logits.requires_grad
        assert torch.equal(model(X), logits)
    assert before is None or torch.equal(before, logits)
    remove_cords_contract(model)
    assert torch.equal(model(X), logits)
