"""Batches by a function of the user's, wherever samples are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import Texts, TokenHead, padded
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from lipt_cords import (
    LiPTWarmStart,
    SubsetLoader,
    choose_subset,
    features,
    find_label_issues,
    last_layer_gradients,
    select,
    train_on_subset,
    worker_difficulty,
)
from lipt_cords.data.collated import collated
from lipt_cords.data.contents import contents_of
from lipt_cords.data.labels import labels_of
from lipt_cords.data.source import BatchSource

DATA = Texts(50)
WARM = LiPTWarmStart(num_workers=2, common_steps=4, epochs=1, batch_size=8, launch="serial")


class AlreadyPadded(Dataset[dict[str, Any]]):
    """The same texts, all of the longest one's length."""

    def __init__(self, data: Texts) -> None:
        whole = padded([data[index] for index in range(len(data))])
        self.columns = whole

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.columns.items()}


def test_texts_of_any_length_warm_up_select_and_train() -> None:
    torch.manual_seed(1)
    model = TokenHead()
    before = torch.get_rng_state()
    warm = WARM.fit(model, DATA, DATA, collate_fn=padded)
    assert torch.equal(before, torch.get_rng_state())
    gradients = warm.gradients(DATA)  # by the function of the fit
    chosen = select("craig", gradients, 17)
    result = train_on_subset(
        warm.apply_to(model), DATA, chosen, val_dataset=DATA, epochs=12, batch_size=8,
        lr=0.2, collate_fn=padded, device="cpu",
    )  # fmt: skip
    assert result.val_accuracy is not None and result.val_accuracy > 0.9
    batch = next(iter(SubsetLoader(DATA, chosen, batch_size=4, collate_fn=padded)))
    assert set(batch) == {"input_ids", "attention_mask", "labels", "weights"}


def test_padding_does_not_change_what_is_computed() -> None:
    plain, whole = TokenHead(), AlreadyPadded(DATA)
    one = last_layer_gradients(plain, DATA, collate_fn=padded, batch_size=7)
    other = last_layer_gradients(plain, whole)
    torch.testing.assert_close(one.logit_grads, other.logit_grads)
    torch.testing.assert_close(one.embeddings, other.embeddings)
    nets = TokenHead(), TokenHead()
    train_on_subset(nets[0], DATA, range(17), epochs=2, batch_size=8, collate_fn=padded)
    train_on_subset(nets[1], whole, range(17), epochs=2, batch_size=8)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)
    fits = [
        WARM.fit(TokenHead(), data, data, collate_fn=collate)
        for data, collate in ((DATA, padded), (whole, None))
    ]
    assert all(torch.equal(a, b) for a, b in zip(fits[0].shards, fits[1].shards, strict=True))
    for name, value in fits[0].state_dict.items():
        torch.testing.assert_close(value, fits[1].state_dict[name])


def test_the_same_seed_gives_the_same_bits_and_forgetting_reads_by_the_function() -> None:
    warm = LiPTWarmStart(WARM.config.model_copy(update={"keep_workers": True}))
    first, again = (warm.fit(TokenHead(), DATA, DATA, collate_fn=padded) for _ in range(2))
    for name, value in first.state_dict.items():
        assert torch.equal(value, again.state_dict[name])
    gone = int(first.shards[0][0])
    assert gone not in torch.cat(first.forget([gone]).shards).tolist()
    assert worker_difficulty(first, DATA).scores.shape == (50,)


def test_a_run_resumes_with_its_function_alone(tmp_path: Path) -> None:
    warm = LiPTWarmStart(WARM.config.model_copy(update={"work_dir": tmp_path}))
    first = warm.fit(TokenHead(), DATA, collate_fn=padded)
    again = warm.fit(TokenHead(), DATA, collate_fn=padded)
    assert torch.equal(first.state_dict["score.weight"], again.state_dict["score.weight"])

    def cut(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        return padded([{**item, "input_ids": item["input_ids"][:2]} for item in items])

    with pytest.raises(ValueError, match="another run"):
        warm.fit(TokenHead(), DATA, collate_fn=cut)


def test_labels_contents_and_subsets_go_through_the_function() -> None:
    data = collated(DATA, padded)
    assert labels_of(Subset(data, [3, 0])).tolist() == [1, 0]
    assert (
        contents_of(data)
        == contents_of(collated(Texts(50), padded))
        != contents_of(collated(Texts(50, seed=1), padded))
    )
    source = BatchSource(Subset(data, [5, 2]))
    assert source.labels.tolist() == [1, 0] and len(source) == 2


def test_texts_are_chosen_without_training() -> None:
    rows = features(DATA, collate_fn=padded)
    assert rows.kind == "ngrams" and rows.values.shape[0] == 50
    assert rows.of(Texts(5, seed=2), collate_fn=padded).values.shape == (5, rows.width)
    assert len(choose_subset(DATA, 0.2, val_dataset=DATA, collate_fn=padded)) == 10
    assert len(find_label_issues(DATA, collate_fn=padded).scores) == 50


READERS: dict[str, Callable[[Any, Any], Any]] = {
    "fit": lambda data, collate: WARM.fit(TokenHead(), data, collate_fn=collate),
    "gradients": lambda data, collate: last_layer_gradients(TokenHead(), data, collate_fn=collate),
    "train": lambda data, collate: train_on_subset(
        TokenHead(), data, range(20), collate_fn=collate, device="cpu"
    ),
}


class Tensors(Texts):
    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        ids = torch.tensor(item["input_ids"])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": item["label"]}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("data", [Tensors(20), Texts(20)], ids=["tensors", "lists"])
def test_different_lengths_without_a_function_ask_for_one(read: str, data: Texts) -> None:
    with pytest.raises(ValueError, match="collate_fn"):
        READERS[read](data, None)


@pytest.mark.parametrize("read", READERS)
def test_a_function_that_makes_no_batches_is_refused(read: str) -> None:
    with pytest.raises(ValueError, match="collate_fn must be a function.*received str"):
        READERS[read](DATA, "pad")

    def short(items: list[Any]) -> dict[str, Tensor]:
        return padded(items[:1])

    with pytest.raises(ValueError, match="collate_fn made"):
        READERS[read](DATA, short)


def test_a_source_has_its_own_function() -> None:
    source = BatchSource(DATA, collate_fn=padded)
    with pytest.raises(ValueError, match="BatchSource has its own collate_fn"):
        last_layer_gradients(TokenHead(), source, collate_fn=padded)


ROWS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kind", ["one logit", "several labels"])
def test_binary_heads_of_one_logit_and_several_labels_are_refused(kind: str, outputs: int) -> None:
    net = nn.Linear(6, 1 if kind == "one logit" else outputs + 1)
    labels = torch.arange(20) % 2 if kind == "one logit" else torch.ones(20, outputs + 1)
    words = "build the network with 2 for cross-entropy|multi-label.* are not supported"
    data = TensorDataset(ROWS, labels)
    for loss in (None, nn.BCEWithLogitsLoss()):
        for read in (
            lambda loss=loss: WARM.fit(net, data, loss=loss),
            lambda loss=loss: last_layer_gradients(net, data, loss=loss),
            lambda loss=loss: train_on_subset(net, data, range(9), val_dataset=data, loss=loss),
        ):
            with pytest.raises(ValueError, match=words):
                read()


def test_pairs_of_a_dict_and_labels_are_read() -> None:
    def pairs(items: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
        batch = padded(items)
        return batch, batch.pop("labels")

    one = last_layer_gradients(TokenHead(), DATA, collate_fn=pairs)
    other = last_layer_gradients(TokenHead(), DATA, collate_fn=padded)
    assert torch.equal(one.logit_grads, other.logit_grads)
    net = TokenHead()
    train_on_subset(net, DATA, range(9), epochs=1, batch_size=4, collate_fn=pairs, device="cpu")
