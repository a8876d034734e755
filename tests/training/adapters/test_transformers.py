"""transformers' Trainer on a subset chosen anew, resumed with the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import PAD, VOCABULARY, Texts, padded
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from lipt_cords import last_layer_gradients, select
from lipt_cords.training.adapters.transformers import ReselectCallback

DATA = Texts(40)


def net() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=16, num_labels=2, pad_token_id=PAD,
        )
    )  # fmt: skip


def train(
    place: Path, callback: ReselectCallback, resume: bool = False, **options: Any
) -> tuple[BertForSequenceClassification, ReselectCallback]:
    model = net()
    given = {"num_train_epochs": 4, "save_steps": 5, **options}
    arguments = TrainingArguments(
        output_dir=str(place), per_device_train_batch_size=4, learning_rate=1e-2, report_to=[],
        save_strategy="steps", use_cpu=True, disable_tqdm=True, seed=0, logging_steps=1000, **given,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=callback.subset, data_collator=padded,
        callbacks=[callback],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume or None)
    return model, callback


def chosen(**options: Any) -> ReselectCallback:
    return ReselectCallback(DATA, 12, collate_fn=padded, **{"every": 2, **options})


@pytest.mark.parametrize("step", [5, 6])
def test_a_resumed_run_has_the_same_bits_and_subsets(tmp_path: Path, step: int) -> None:
    whole, one = train(tmp_path, chosen(), save_steps=step)
    expected = select("grand", last_layer_gradients(net(), DATA, collate_fn=padded), 12)
    for path in tmp_path.glob("checkpoint-*"):  # a run that was killed at this step
        if path.name != f"checkpoint-{step}":
            shutil.rmtree(path)
    resumed, other = train(tmp_path, chosen(), resume=True, save_steps=step)
    assert torch.equal(one.subset.selection.indices, other.subset.selection.indices)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    (tmp_path / "first").mkdir()
    _, first = train(tmp_path / "first", chosen(every=9), num_train_epochs=1)
    assert torch.equal(first.subset.selection.indices, expected.indices)
    assert not torch.equal(first.subset.selection.indices, one.subset.selection.indices)


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        ({"selector": "importance"}, {}, "'importance' gives weights.*ReselectingLoader"),
        (
            {},
            {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
            "dataloader_persistent_workers=False",
        ),
    ],
)
def test_what_the_trainer_cannot_do_is_refused(
    tmp_path: Path, options: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        train(tmp_path, chosen(**options), **given)


def test_another_budget_is_not_resumed(tmp_path: Path) -> None:
    train(tmp_path, chosen(), num_train_epochs=2)
    with pytest.raises(ValueError, match=r"subset\.json holds a subset of 12 samples, and 10"):
        train(tmp_path, ReselectCallback(DATA, 10, collate_fn=padded), resume=True)
