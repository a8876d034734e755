from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipt_cords.cords.contract import make_cords_compatible
from lipt_cords.models.heads import (
    EmbeddingRecorder,
    call_model,
    find_head,
    logits_of,
    model_device,
    undisturbed,
)


class TwoLinears(nn.Module):
    """A hidden linear layer, and a head that is defined before it."""

    def __init__(self, after: Any = None) -> None:
        super().__init__()
        self.classify = nn.Linear(5, 3)
        self.hidden = nn.Linear(4, 5)
        self.after = after or (lambda z: z)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.classify(self.hidden(x).relu()))


def test_the_only_linear_layer_is_the_head():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    assert find_head(model).name == "2"
    assert find_head(model, num_classes=3).module is model[2]
    lone = nn.Linear(4, 2)
    assert find_head(lone).module is lone


def test_watching_a_sample_settles_two_candidates():
    model = TwoLinears()
    sample = torch.rand(2, 4)
    assert find_head(model, sample=sample).name == "classify"
    assert find_head(model, num_classes=3).name == "classify"
    assert find_head(model, head="hidden").module is model.hidden
    with pytest.raises(ValueError, match="2 linear layers .*'classify', 'hidden'.*pass head="):
        find_head(model)


@pytest.mark.parametrize(
    "after",
    [lambda z: z.float(), lambda z: z.clone(), lambda z: z.reshape(-1, 3), lambda z: (z, "more")],
)
def test_a_head_is_known_through_what_keeps_its_values(after):
    assert find_head(TwoLinears(after), sample=torch.rand(2, 4)).name == "classify"


def test_an_output_that_no_layer_makes_is_refused():
    model = TwoLinears(lambda z: z.softmax(dim=1))
    with pytest.raises(ValueError, match="not the output of any of its linear.*without softmax"):
        find_head(model, sample=torch.rand(2, 4))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Conv2d(1, 2, 1), {}, "Conv2d has no linear head"),
        (nn.Conv2d(1, 2, 1), {"head": "fc"}, "Conv2d has no linear head"),
        (TwoLinears(), {"head": "clasify"}, "unknown linear layer 'clasify'.*'classify'"),
        (TwoLinears(), {"num_classes": 7}, "no linear layer of TwoLinears has 7 outputs"),
        (TwoLinears(), {"num_classes": 7, "head": "classify"}, "3 outputs, the data has 7"),
    ],
)
def test_missing_heads_are_clear_errors(model, options, message):
    with pytest.raises(ValueError, match=message):
        find_head(model, **options)


def test_dict_samples_and_models_with_logits():
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.mix = nn.Linear(4, 4)
            self.score = nn.Linear(4, 2)

        def forward(self, tokens: Tensor, mask: Tensor) -> Any:
            pooled = (self.mix(self.table(tokens)) * mask[..., None]).mean(dim=1)
            return SimpleNamespace(logits=self.score(pooled), attention=None)

    batch = {"tokens": torch.ones(2, 5, dtype=torch.int64), "mask": torch.ones(2, 5)}
    model = Text()
    assert find_head(model, sample=batch).name == "score"
    assert call_model(model, batch).shape == (2, 2)


def test_logits_are_unwrapped_from_common_outputs():
    z = torch.rand(2, 3)
    for output in (z, (z, 1), [z], {"logits": z}, SimpleNamespace(logits=z)):
        assert logits_of(output) is z
    for output in (None, {"scores": z}, (), ("a", z)):
        with pytest.raises(ValueError, match="expected a network whose output is logits"):
            logits_of(output)


def test_a_head_may_be_called_by_keyword():
    class Keyword(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            return self.classify(input=self.hidden(x).relu())

    model, x = Keyword(), torch.rand(6, 4)
    with EmbeddingRecorder(find_head(model, sample=x)) as recorder:
        call_model(model, x)
    assert torch.equal(recorder.embeddings, model.hidden(x).relu())
    logits, embeddings = make_cords_compatible(model, "classify")(x, last=True, freeze=True)
    assert torch.equal(embeddings, recorder.embeddings) and not embeddings.requires_grad
    assert logits.requires_grad


def test_the_recorder_sees_the_inputs_of_the_head_and_leaves():
    model = TwoLinears()
    x = torch.rand(6, 4)
    with EmbeddingRecorder(find_head(model, head="classify")) as recorder:
        logits = call_model(model, x)
    assert torch.equal(recorder.embeddings, model.hidden(x).relu())
    assert torch.equal(recorder.outputs, logits)
    assert not model.classify._forward_hooks
    with (
        pytest.raises(RuntimeError),
        EmbeddingRecorder(model.classify) as broken,
    ):
        call_model(model, torch.rand(6, 3))
    assert not model.classify._forward_hooks
    with pytest.raises(ValueError, match="'Linear' was not called"):
        _ = broken.embeddings


def test_undisturbed_restores_flags_buffers_and_random_states():
    class Restless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(4, 3)
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("replaced", torch.zeros(()))
            self.register_buffer("unseen", torch.zeros(()), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1  # written even in eval mode
            self.replaced = self.replaced + 1
            self.unseen.data.add_(1)
            torch.rand(1)
            return self.head(self.drop(self.norm(x)))

    model = Restless()
    model.drop.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    rng, replaced = torch.get_rng_state(), model.replaced
    with pytest.raises(KeyError), undisturbed(model):
        assert not model.training and not torch.is_grad_enabled()
        model(torch.rand(5, 4))
        raise KeyError
    assert find_head(model, sample=torch.ones(2, 4)).name == "head"
    assert model.training and model.norm.training and not model.drop.training
    assert torch.equal(rng, torch.get_rng_state())
    assert model.replaced is replaced and model.unseen.item() == 0
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_the_device_of_a_model_without_tensors_is_the_cpu():
    assert model_device(nn.ReLU()) == torch.device("cpu")
    assert model_device(nn.Linear(2, 2, device="meta")) == torch.device("meta")
