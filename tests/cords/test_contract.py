from __future__ import annotations

import copy
import io
import logging
import pickle
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipt_cords.cords.contract import (
    follows_cords_contract,
    make_cords_compatible,
    remove_cords_contract,
)
from lipt_cords.cords.importing import import_cords
from lipt_cords.data.datasets import load_dataset
from lipt_cords.models.build import build_model
from lipt_cords.models.gradients import last_layer_gradients

NUM_CLASSES = 5


class TinyTransformer(nn.Module):
    """Reads dict batches without labels and returns an object with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.score = nn.Linear(8, NUM_CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Any:
        hidden = self.layer(self.table(tokens), src_key_padding_mask=mask)
        return SimpleNamespace(logits=self.score(hidden[:, 0]))


class WithLabels(nn.Module):
    """Takes labels itself, as models that compute their own loss do."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(3, NUM_CLASSES)
        self.seen: Any = None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, None]:
        self.seen = labels
        return self.score(x), None


class CordsNet(nn.Module):
    """A network in CORDS's own manner."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, NUM_CLASSES)

    def get_embedding_dim(self) -> int:
        return 4

    def forward(self, x: Tensor, last: bool = False, freeze: bool = False) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze):
            e = self.body(x)
        return (self.head(e), e) if last else self.head(e)


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def tokens(count: int = 6) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return {
        "tokens": torch.randint(0, 11, (count, 7), generator=draws),
        "labels": torch.arange(count) % NUM_CLASSES,
    }


def resnet() -> nn.Module:
    return build_model("resnet18", NUM_CLASSES).eval()


def strategy_gradients(model: nn.Module, inputs: Any, labels: Tensor) -> Tensor:
    """Per-sample last-layer gradients in the way that CORDS's strategies ask for them."""
    call = {"last": True, "freeze": True}
    out, l1 = model(inputs, **call) if isinstance(inputs, Tensor) else model(**inputs, **call)
    loss = nn.functional.cross_entropy(out, labels, reduction="none").sum()
    l0 = torch.autograd.grad(loss, out)[0]
    width = model.get_embedding_dim()
    assert l1.shape == (len(labels), width)
    expanded = torch.repeat_interleave(l0, width, dim=1) * l1.repeat(1, NUM_CLASSES)
    return torch.cat((l0, expanded), dim=1)


def factored_gradients(model: nn.Module, dataset: Any) -> Tensor:
    ours = last_layer_gradients(model, dataset)
    outer = torch.einsum("nc,ne->nce", ours.logit_grads, ours.embeddings).flatten(1)
    return torch.cat((ours.logit_grads, outer), dim=1)


def test_resnet18_gives_cords_what_it_asks_for():
    model = resnet()
    keys = list(model.state_dict())
    plain = model(images())
    assert make_cords_compatible(model) is model
    assert list(model.state_dict()) == keys
    assert torch.equal(model(images()), plain)
    logits, embeddings = model(images(), last=True)
    assert torch.equal(logits, plain)
    assert embeddings.requires_grad and logits.requires_grad
    logits, embeddings = model(images(), last=True, freeze=True)
    assert not embeddings.requires_grad and logits.requires_grad
    assert model.get_embedding_dim() == 512
    labels = torch.arange(6) % NUM_CLASSES
    dataset = torch.utils.data.TensorDataset(images(), labels)
    expected = factored_gradients(model, dataset)
    torch.testing.assert_close(strategy_gradients(model, images(), labels), expected)


@pytest.mark.parametrize("linear_layer", [True, False])
def test_cords_itself_computes_our_gradients_from_a_copy(linear_layer):
    """The released CORDS, asked for the gradients of both loaders."""
    name = "cords.selectionstrategies.SL.dataselectionstrategy"
    import_cords(name)
    splits = load_dataset("digits", limit=40)
    model = make_cords_compatible(build_model("cnn", 10, in_channels=1)).eval()
    train, val = (DataLoader(part, batch_size=16) for part in (splits.train, splits.val))
    loss = nn.CrossEntropyLoss(reduction="none")
    strategy = sys.modules[name].DataSelectionStrategy(
        train, val, copy.deepcopy(model), 10, linear_layer, loss, "cpu", logging.getLogger()
    )
    strategy.update_model(model.state_dict())
    strategy.compute_gradients(valid=True)
    for theirs, part in (
        (strategy.grads_per_elem, splits.train),
        (strategy.val_grads_per_elem, splits.val),
    ):
        ours = factored_gradients(model, part)
        width = 10 if not linear_layer else ours.shape[1]
        torch.testing.assert_close(theirs, ours[:, :width], atol=1e-6, rtol=1e-5)


def test_freezing_trains_the_head_alone():
    model = make_cords_compatible(build_model("cnn", NUM_CLASSES, in_channels=3))
    model(images(), freeze=True).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "head.weight",
        "head.bias",
    }
    model(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_dict_batches_lose_labels_that_forward_does_not_take():
    model = make_cords_compatible(TinyTransformer().eval(), head="score")
    batch = tokens()
    logits = model(**batch)
    assert isinstance(logits, Tensor) and logits.shape == (6, NUM_CLASSES)

    class Tokens(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> Any:
            return {key: value[i] for key, value in batch.items()}

    torch.testing.assert_close(
        strategy_gradients(model, batch, batch["labels"]), factored_gradients(model, Tokens())
    )
    taking = make_cords_compatible(WithLabels())
    logits, _ = taking(x=torch.rand(2, 3), labels=torch.arange(2), last=True)
    assert taking.seen.tolist() == [0, 1] and logits.shape == (2, NUM_CLASSES)


@pytest.mark.parametrize(
    "twin_of",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_copies_work_and_stay_apart(twin_of):
    model = make_cords_compatible(build_model("resnet8", NUM_CLASSES).eval())
    twin = twin_of(model)
    logits, embeddings = twin(images(), last=True, freeze=True)
    assert not embeddings.requires_grad and logits.requires_grad
    assert twin.get_embedding_dim() == 64
    with torch.no_grad():
        twin.head.weight.zero_()
    assert not torch.equal(model(images()), twin(images()))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(images()), twin(images()))
    remove_cords_contract(twin)
    with pytest.raises(TypeError, match="last"):
        twin(images(), last=True)
    assert model(images(), last=True)[1].shape == (6, 64)
    hooked = twin.register_forward_hook(lambda *_: None)  # ids of hooks must not collide
    assert torch.equal(model(images()), twin(images()))
    hooked.remove()


def test_torch_save_keeps_the_contract():
    file = io.BytesIO()
    torch.save(make_cords_compatible(WithLabels()), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded(torch.rand(2, 3), last=True)[1].shape == (2, 3)


def test_removing_gives_the_network_back():
    model = WithLabels()
    before = dict(model.__dict__)
    make_cords_compatible(model)
    assert remove_cords_contract(model) is model
    assert model.__dict__.keys() == before.keys()
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert not model.score._forward_pre_hooks
    assert isinstance(model(torch.rand(2, 3)), tuple)
    assert remove_cords_contract(model) is model


def test_doing_it_twice_changes_nothing():
    model = make_cords_compatible(resnet())
    hooks = len(model._forward_pre_hooks), len(model._forward_hooks)
    assert make_cords_compatible(model) is model
    assert make_cords_compatible(model, head="fc") is model
    assert hooks == (len(model._forward_pre_hooks), len(model._forward_hooks)) == (1, 1)


def test_another_head_replaces_the_first():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="2 linear layers"):
        make_cords_compatible(model)
    assert make_cords_compatible(model, head="0").get_embedding_dim() == 3
    assert make_cords_compatible(model, head="1").get_embedding_dim() == 4
    with pytest.raises(ValueError, match="unknown linear layer '2'"):
        make_cords_compatible(model, head="2")
    assert model(torch.rand(2, 3), last=True)[1].shape == (2, 4)


def test_a_model_of_cords_is_left_alone():
    model = CordsNet()
    assert follows_cords_contract(model) and not follows_cords_contract(resnet())
    assert make_cords_compatible(model) is model
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_a_bare_linear_layer_is_its_own_head():
    model = make_cords_compatible(nn.Linear(3, 2))
    x = torch.rand(4, 3)
    logits, embeddings = model(x, last=True, freeze=True)
    assert torch.equal(embeddings, x) and logits.requires_grad


def test_autograd_is_restored_when_the_network_raises():
    model = make_cords_compatible(resnet())
    with pytest.raises(RuntimeError):
        model(torch.rand(2, 7, 8, 8), last=True, freeze=True)
    assert torch.is_grad_enabled()
    assert model(images(), last=True)[1].requires_grad
    with torch.no_grad():
        assert not model(images(), freeze=True).requires_grad
        assert not torch.is_grad_enabled()


def test_a_head_that_is_not_called_is_named():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = make_cords_compatible(Unused(), head="unused")
    assert model(torch.rand(2, 3)).shape == (2, 2)
    with pytest.raises(ValueError, match="head 'unused' was not called"):
        model(torch.rand(2, 3), last=True)
    assert torch.is_grad_enabled()


def test_the_head_may_be_called_alone():
    model = make_cords_compatible(resnet())
    assert model.fc(torch.rand(2, 512)).requires_grad
