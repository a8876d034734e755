"""Networks that return more than logits: the tensor that the head makes is taken, or none."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart, last_layer_gradients, train_on_subset
from lipt_cords.cords.contract import make_cords_compatible
from lipt_cords.models import find_head
from lipt_cords.models.copies import copy_model
from lipt_cords.models.logits_alone import return_everything, return_logits_alone

X = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, torch.arange(48) % 3)
WARM = LiPTWarmStart(num_workers=2, common_steps=3, epochs=1, keep_workers=True)
Pair = namedtuple("Pair", "features scores")


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "logits": lambda f, z: z,
    "features first": lambda f, z: (f, z),
    "logits first": lambda f, z: (z, f),
    "nested": lambda f, z: [{"body": (f, f.mean())}, {"out": z}],
    "namedtuple": Pair,
    "named": lambda f, z: {"features": f, "logits": z},
    "other names": lambda f, z: {"features": f, "scores": z},
    "model output": Output,
}


class Net(nn.Module):
    """Its features are made by a linear layer too."""

    def __init__(self, form: str, only_in_training: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj, self.fc = nn.Linear(8, 16), nn.Linear(16, 3)
        self.form, self.only_in_training = form, only_in_training

    def forward(self, x: Tensor) -> Any:
        features = self.proj(x)
        logits = self.fc(features)
        if self.only_in_training and not self.training:
            return logits
        return FORMS[self.form](features, logits)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).relu()
        return self.one(hidden), self.two(hidden)


class SeveralDropouts(nn.Module):
    """Its head is called three times, and averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.fc = nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        return torch.stack([self.fc(self.drop(hidden)) for _ in range(3)]).mean(0)


@pytest.mark.parametrize("only_in_training", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_as_the_logits_alone(form: str, only_in_training: bool) -> None:
    plain, model = Net("logits"), Net(form, only_in_training)
    ours, theirs = last_layer_gradients(plain, DATA), last_layer_gradients(model, DATA)
    assert torch.equal(ours.logit_grads, theirs.logit_grads)
    results = [WARM.fit(one, DATA, DATA) for one in (plain, model)]
    results += [one.forget([3]) for one in results]
    for one, other in (results[:2], results[2:]):
        for name, value in one.state_dict.items():
            assert torch.equal(value, other.state_dict[name])
        assert one.report.merged_accuracy == other.report.merged_accuracy
    for one in (plain, model):
        train_on_subset(one, DATA, range(24), val_dataset=DATA, epochs=2)
        assert not one._forward_hooks
        assert not one.fc._forward_hooks
    assert all(map(torch.equal, plain.parameters(), model.parameters()))


@pytest.mark.parametrize("form", FORMS)
def test_the_contract_of_cords(form: str) -> None:
    model = make_cords_compatible(Net(form), head="fc")
    logits, embeddings = model(X, last=True, freeze=True)
    assert torch.equal(logits, model.fc(embeddings))
    assert torch.equal(model(X), logits)


def test_what_may_be_several_is_refused() -> None:
    model = TwoHeads()
    with pytest.raises(ValueError, match=r"2 linear layers that may be its head.*pass head="):
        last_layer_gradients(model, DATA)
    with pytest.raises(ValueError, match=r"2 of them may be the logits \(of the linear layers"):
        train_on_subset(model, DATA, range(24), epochs=1)
    for head in ("one", "two"):
        gradients = last_layer_gradients(model, DATA, head=head)
        assert torch.allclose(gradients.logits, getattr(model, head)(model.body(X).relu()))
        result = LiPTWarmStart(num_workers=2, common_steps=2, head=head).fit(model, DATA)
        other = "two" if head == "one" else "one"
        assert torch.equal(result.theta_star[f"{other}.bias"], getattr(model, other).bias)
    with pytest.raises(ValueError, match="none is the output of the head 'body'"):
        last_layer_gradients(model, DATA, head="body")


def test_a_frozen_layer_below_is_no_head() -> None:
    model = Net("features first").requires_grad_(False)
    assert find_head(model, sample=X[:2]).name == "fc"


def test_compiled_workers_return_logits() -> None:
    with pytest.raises(ValueError, match="compile=True needs a model whose forward"):
        LiPTWarmStart(num_workers=2, compile=True).fit(Net("features first"), DATA)


def test_copies_return_the_logits_too_and_everything_again() -> None:
    model = Net("features first")
    return_logits_alone(model)
    twin = copy_model(model)
    assert torch.equal(twin(X), model(X))
    for one in (model, twin):
        return_everything(one)
        assert isinstance(one(X), tuple)


def test_a_head_that_is_called_several_times() -> None:
    model = SeveralDropouts()
    gradients = last_layer_gradients(model, DATA)
    assert torch.allclose(gradients.embeddings, model.body(X))
    assert LiPTWarmStart(num_workers=2, common_steps=2).fit(model, DATA, DATA).report.passes > 0


def test_logits_that_are_changed_in_place() -> None:
    class Scaled(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mul_(3)

    with pytest.raises(ValueError, match="changes the output of the head 'fc'"):
        last_layer_gradients(Scaled("logits"), DATA)


def test_script_modules_take_no_hooks_and_have_no_known_head() -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(8, 3)))
    return_logits_alone(model)
    assert model(X).shape == (48, 3)
    return_everything(model)
    with pytest.raises(ValueError, match="layers of a ScriptModule cannot be watched"):
        find_head(model, sample=X)
