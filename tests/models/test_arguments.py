"""Keys of a dict batch that a network does not take are left out, and named once."""

from __future__ import annotations

import logging
from typing import Any, TypedDict

import pytest
import torch
from texts import Texts, TokenHead, padded
from torch import Tensor, nn
from typing_extensions import Unpack

from lipt_cords import LiPTWarmStart, last_layer_gradients, train_on_subset
from lipt_cords.data.batches import _note_texts
from lipt_cords.models.heads import run_model


class Kwargs(TypedDict, total=False):
    position_ids: Tensor


class Named(nn.Module):
    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> list[str]:
        return ["tokens"] if mask is None else ["tokens", "mask"]


class Anything(nn.Module):
    def forward(self, **batch: Any) -> list[str]:
        return list(batch)


class Typed(nn.Module):
    def forward(self, tokens: Tensor, **kwargs: Unpack[Kwargs]) -> list[str]:
        return ["tokens", *kwargs]


@pytest.mark.parametrize(
    ("net", "kept"),
    [
        (Named(), ["tokens", "mask"]),
        (Anything(), ["tokens", "mask", "position_ids", "idx"]),
        (Typed(), ["tokens", "position_ids"]),
        (nn.DataParallel(Named()), ["tokens", "mask"]),
    ],
)
def test_a_net_gets_what_its_signature_takes(
    net: nn.Module, kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(net, nn.DataParallel):
        monkeypatch.setattr(net, "device_ids", [])
    batch = {name: torch.zeros(1) for name in ("tokens", "mask", "position_ids", "idx")}
    assert run_model(net, batch) == kept


class Quiet(TokenHead):
    """A net of this test alone, so that what is said once is not said yet."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return super().forward(input_ids, attention_mask)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = padded(items)
    batch["idx"] = torch.arange(len(items))
    batch["text"] = ["some words"] * len(items)
    return batch


def test_what_is_left_out_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    _note_texts.cache_clear()
    data, model = Texts(24), Quiet()
    plain = last_layer_gradients(TokenHead(), data, collate_fn=padded)
    with caplog.at_level(logging.WARNING, "lipt_cords"):
        gradients = last_layer_gradients(model, data, collate_fn=collate)
        LiPTWarmStart(num_workers=2, common_steps=2, local_steps=2, launch="serial").fit(
            model, data, data, collate_fn=collate
        )
        train_on_subset(model, data, [0, 1, 2], epochs=1, collate_fn=collate, device="cpu")
    assert torch.equal(gradients.logit_grads, plain.logit_grads)
    said = [record.getMessage() for record in caplog.records]
    assert [one for one in said if one.endswith("left out: idx")] == [
        "Quiet.forward() does not take these keys of a batch, so they are left out: idx"
    ]
    assert len([one for one in said if one.endswith("left out: text")]) == 1
