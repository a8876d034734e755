"""Heads that read every token: gradients of the pooled outputs, against autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from texts import PAD, VOCABULARY, Texts, TokenHead, padded
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from lipt_cords import features, last_layer_gradients
from lipt_cords.models import find_head
from lipt_cords.models.outputs import logits_of

DATA = Texts(14, classes=3)


def autograds(model: nn.Module, head: nn.Linear) -> tuple[Tensor, Tensor]:
    """The gradient of every sample's loss in the head's weight, one sample at a time; logits."""
    rows, logits = [], []
    model.eval()
    for index in range(len(DATA)):
        batch = padded([DATA[index]])
        labels = batch.pop("labels")
        made = model(**batch)
        made = made[1] if isinstance(made, tuple) else logits_of(made)
        (row,) = torch.autograd.grad(functional.cross_entropy(made, labels), head.weight)
        rows.append(row)
        logits.append(made.detach())
    return torch.stack(rows), torch.cat(logits)


def agrees(model: nn.Module, name: str) -> None:
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    gradients = last_layer_gradients(model, DATA, collate_fn=padded, batch_size=5)
    expected, logits = autograds(model, head)
    found = gradients.logit_grads[:, :, None] * gradients.embeddings[:, None, :]
    torch.testing.assert_close(gradients.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    rows = features(DATA, model, collate_fn=padded, device="cpu").values
    torch.testing.assert_close(rows, gradients.embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", ["logits", "named", "second"])
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_a_pooled_head_has_the_gradients_of_autograd(pool: str, form: str, bias: bool) -> None:
    model = TokenHead(pool, form, classes=3, bias=bias)
    assert find_head(model, sample=without_labels()).name == "score"
    agrees(model, "score")
    assert torch.is_grad_enabled() and not model.score._forward_hooks


SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 16, "num_labels": 3, "pad_token_id": PAD,
}  # fmt: skip
TRANSFORMERS = {
    "gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=8, n_layer=2, n_head=2, n_positions=16, num_labels=3,
            pad_token_id=PAD,
        )
    ),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**SMALL)),
    "bert": lambda: BertForSequenceClassification(BertConfig(**SMALL)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=VOCABULARY, dim=8, n_layers=2, n_heads=2, hidden_dim=16, num_labels=3,
            max_position_embeddings=16, pad_token_id=PAD,
        )
    ),
}  # fmt: skip
HEADS = {"gpt2": "score", "llama": "score", "roberta": "classifier.out_proj"}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_classifiers_of_transformers_have_the_gradients_of_autograd(name: str) -> None:
    torch.manual_seed(0)
    model = TRANSFORMERS[name]()
    if name == "gpt2":  # its weights start so small that tokens hardly differ
        model.score.weight.data.normal_()
    agrees(model, HEADS.get(name, "classifier"))


def without_labels() -> dict[str, Tensor]:
    return {k: v for k, v in padded([DATA[0], DATA[1]]).items() if k != "labels"}


@pytest.mark.parametrize(
    ("pool", "why"),
    [
        ("max", "each class has weights of its own"),
        ("sum", "do not add up to 1"),
        ("doubled", "do not add up to 1"),
    ],
)
def test_other_pooling_is_refused_with_the_reason(pool: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"'score' reads every token.*{why}"):
        last_layer_gradients(TokenHead(pool), Texts(9), collate_fn=padded)
    assert torch.is_grad_enabled()


def test_inference_mode_is_refused_for_them() -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        last_layer_gradients(TokenHead(), Texts(9), collate_fn=padded, head="score")


def test_padding_that_is_not_finite_is_hidden_by_its_weight() -> None:
    class Padded(TokenHead):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            hidden = self.proj(self.mix(self.embed(input_ids))[0]).tanh()
            hidden = torch.where(attention_mask[:, :, None] == 0, torch.inf, hidden)
            last = attention_mask.sum(dim=1) - 1
            return self.score(hidden)[torch.arange(len(hidden)), last]

    gradients = last_layer_gradients(Padded(), Texts(9), collate_fn=padded)
    assert bool(gradients.embeddings.isfinite().all())
