"""The emulated accelerator refuses what a GPU refuses, and computes what the CPU computes."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

THERE = "emulated"
X = torch.arange(6.0).reshape(2, 3)


def there(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).to(THERE)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


TWO_DEVICES = "Expected all tensors to be on the same device"
REFUSED = {
    "sum": (lambda: there(X) + X, TWO_DEVICES),
    "sum in place": (lambda: X.clone().add_(there(X)), TWO_DEVICES),
    "number in place": (lambda: torch.tensor(1.0).add_(there(1.0)), TWO_DEVICES),
    "product": (lambda: there(X) @ X.T, TWO_DEVICES),
    "concatenation": (lambda: torch.cat([X, there(X)]), TWO_DEVICES),
    "stack": (lambda: torch.stack([torch.tensor(1.0), there(1.0)]), TWO_DEVICES),
    "gather": (lambda: there(X).gather(1, torch.zeros(2, 1, dtype=torch.int64)), TWO_DEVICES),
    "index_select": (lambda: there(X).index_select(0, torch.tensor([0])), TWO_DEVICES),
    "index of the device": (lambda: X[there([0])], "indices should be either on cpu"),
    "mask of the device": (lambda: X[there(X > 1)], "indices should be either on cpu"),
    "labels": (lambda: F.cross_entropy(there(X), torch.tensor([0, 1])), TWO_DEVICES),
    "class weights": (
        lambda: F.cross_entropy(there(X), there([0, 1]), weight=torch.ones(3)), TWO_DEVICES,
    ),
    "inputs": (lambda: nn.Linear(3, 2).to(THERE)(X), TWO_DEVICES),
    "net": (lambda: nn.Linear(3, 2)(there(X)), TWO_DEVICES),
    "where": (lambda: torch.where(X > 1, there(X), 0.0), TWO_DEVICES),
    "foreach": (lambda: torch._foreach_add_([there(X)], [X]), TWO_DEVICES),
    "copy of numpy": (lambda: there(X).numpy(), "can't convert emulated:0"),
    "asarray": (lambda: np.asarray(there(X)), "can't convert emulated:0"),
    "generator of the CPU": (
        lambda: torch.rand(2, device=THERE, generator=torch.Generator()),
        "device type for generator",
    ),
    "generator of the device": (
        lambda: torch.randperm(2, generator=torch.Generator(THERE)), "device type for generator",
    ),
    "draw in place": (
        lambda: there(X).normal_(generator=torch.Generator()), "device type for generator",
    ),
    "pinned": (lambda: there(X).pin_memory(), "cannot pin"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises((RuntimeError, TypeError), match=message):
        call()


def test_what_a_gpu_allows_is_allowed() -> None:
    a = there(X)
    assert torch.equal((a + torch.tensor(1.0)).cpu(), X + 1)
    assert torch.equal(a[torch.tensor([1])].cpu(), X[[1]])
    assert torch.equal(a[a > 2].cpu(), X[X > 2])
    b = a.clone()
    b[torch.tensor([0])] = 7.0
    assert b.tolist() == [[7, 7, 7], [3, 4, 5]]
    assert torch.equal(torch.where(a > 2, a, torch.tensor(0.0)).cpu(), torch.where(X > 2, X, 0.0))
    assert a.sum().item() == 15 and a[0].tolist() == [0, 1, 2]
    assert torch.equal(X.to(THERE).T[1:].cpu(), X.T[1:])
    first = a.view(-1)[1:3]
    first.fill_(9)  # a view shares the memory
    assert a.tolist() == [[0, 9, 9], [3, 4, 5]]
    assert first.untyped_storage()._cdata == a.untyped_storage()._cdata


def test_a_training_has_the_bits_of_the_cpu() -> None:
    here, away = net(), net()
    before = list(away.parameters())
    away.to(THERE)
    assert all(one is two for one, two in zip(before, away.parameters(), strict=True))
    draws = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 1, 6, 6, generator=draws), torch.arange(8) % 3) for _ in range(3)]
    for model in (here, away):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for x, y in batches:
            optimizer.zero_grad()
            where = next(model.parameters()).device
            F.cross_entropy(model(x.to(where)), y.to(where)).backward()
            optimizer.step()
    for name, value in away.state_dict().items():
        assert value.device.type == THERE
        assert torch.equal(value.cpu(), here.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_nets_have_the_gradients_of_the_cpu(kind: str) -> None:
    torch.manual_seed(0)
    here = getattr(nn, kind)(3, 4, 2, batch_first=True)
    away = copy.deepcopy(here).to(THERE)
    x = torch.randn(5, 6, 3)
    for model, inputs in ((here, x), (away, x.to(THERE))):
        model(inputs)[0].square().sum().backward()
    for one, two in zip(here.parameters(), away.parameters(), strict=True):
        torch.testing.assert_close(two.grad.cpu(), one.grad)


def test_files_remember_the_device() -> None:
    buffer = io.BytesIO()
    torch.save(there(X)[:, 1:], buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).device.type == THERE
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True, map_location="cpu")
    assert loaded.device.type == "cpu" and torch.equal(loaded, X[:, 1:])
    copied = copy.deepcopy(there(X))
    assert copied.device.type == THERE and torch.equal(copied.cpu(), X)


def test_the_device_draws_for_itself() -> None:
    torch.manual_seed(5)
    first = torch.rand(3, device=THERE), F.dropout(torch.ones(9, device=THERE))
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)  # the CPU's state did not move
    again = torch.rand(3, device=THERE), F.dropout(torch.ones(9, device=THERE))
    assert all(torch.equal(one.cpu(), two.cpu()) for one, two in zip(first, again, strict=True))


def test_tied_weights_stay_tied_and_autocast_computes_in_half() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.to(THERE)
    assert model[1].weight is model[0].weight
    with torch.autocast(THERE, dtype=torch.bfloat16):
        assert model(there(X)).dtype == torch.bfloat16


def test_vmap_and_pinned_loaders() -> None:
    weights = torch.randn(4, 3, 2, device=THERE)
    gradients = torch.func.vmap(torch.func.grad(lambda w: (there(X) @ w).sum()))(weights)
    assert gradients.shape == (4, 3, 2) and gradients.device.type == THERE
    loader = DataLoader(TensorDataset(X), batch_size=1, pin_memory=True)
    assert torch.equal(torch.cat([batch for (batch,) in loader]), X)
