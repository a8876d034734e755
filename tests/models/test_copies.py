"""Copies of networks that keep something, and networks inside of wrappers."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart, last_layer_gradients, train_on_subset
from lipt_cords.models.copies import bare, copy_model

X = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, torch.arange(60) % 3)


class Keeping(nn.Module):
    """Keeps what a forward pass computed, in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 3)
        self.seen: dict[str, list[Tensor]] = {"activations": []}
        self.aux: Tensor | None = None
        self.body.register_forward_hook(self.note)

    def note(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.seen["activations"] = [output]

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.body(x))
        self.aux = hidden.square().mean()
        return self.fc(hidden)


def old_norms() -> nn.Module:
    spectral = nn.utils.spectral_norm(nn.Linear(8, 16))
    return nn.Sequential(spectral, nn.utils.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 3))


def new_norms() -> nn.Module:
    from torch.nn.utils import parametrizations as new

    spectral, orthogonal = new.spectral_norm(nn.Linear(8, 16)), new.orthogonal(nn.Linear(16, 16))
    return nn.Sequential(spectral, orthogonal, new.weight_norm(nn.Linear(16, 3)))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("build", [Keeping, old_norms, new_norms, tied])
@pytest.mark.parametrize("used", [False, True])
def test_everything_takes_models_that_keep_something(build: type[nn.Module], used: bool) -> None:
    torch.manual_seed(0)
    model = build()
    if used:
        model(X).square().mean().backward()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    kept = getattr(model, "aux", None)
    result = LiPTWarmStart(num_workers=2, common_steps=2, epochs=1).fit(model, DATA, DATA)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert getattr(model, "aux", None) is kept
    assert len(result.gradients(DATA)) == len(last_layer_gradients(model, DATA)) == 60
    train_on_subset(model, DATA, range(30), epochs=1)


def test_a_copy_keeps_values_and_no_history() -> None:
    model = Keeping()
    model(X)
    twin = copy_model(model)
    assert twin.aux is not None
    assert model.aux is not None
    assert twin.aux.grad_fn is None
    assert torch.equal(twin.aux, model.aux.detach())
    twin(X)
    assert twin.seen["activations"][0] is not model.seen["activations"][0]
    model.fc.weight.data.zero_()
    assert twin.fc.weight.abs().sum() > 0


def test_what_cannot_be_copied_is_named() -> None:
    model = Keeping()
    model.fc.held = {"lock": threading.Lock()}  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"every worker needs: fc\.held \(TypeError: .*lock"):
        copy_model(model)


def test_wrappers() -> None:
    model = Keeping()
    assert bare(nn.DataParallel(torch.compile(model, backend="eager"))) is model  # type: ignore[arg-type]
    result = LiPTWarmStart(num_workers=2, common_steps=2, epochs=1).fit(
        nn.DataParallel(model), DATA
    )
    assert result.state_dict.keys() == model.state_dict().keys()
    wrapped = nn.DataParallel(model)
    assert result.apply_to(wrapped) is wrapped
    assert torch.equal(model.fc.bias, result.state_dict["fc.bias"])
