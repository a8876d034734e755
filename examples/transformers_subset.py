"""With Hugging Face's Trainer: a fifth of the texts, chosen anew every four epochs.

The model is a small BERT without pretrained weights, so nothing is downloaded.
"""

import tempfile

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from lipt_cords.training.adapters.transformers import ReselectCallback


class Texts(Dataset):
    """Token ids of different lengths; the first half of the vocabulary is one class's."""

    def __init__(self, count: int, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        lengths = torch.randint(4, 12, (count,), generator=draws).tolist()
        self.ids = [
            torch.randint(1, 50, (length,), generator=draws) + 50 * (index % 2)
            for index, length in enumerate(lengths)
        ]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        return {"input_ids": self.ids[index], "label": index % 2}


def pad(items: list[dict]) -> dict[str, Tensor]:
    """What DataCollatorWithPadding does with a tokeniser."""
    ids = torch.nn.utils.rnn.pad_sequence([item["input_ids"] for item in items], batch_first=True)
    labels = torch.tensor([item["label"] for item in items])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


torch.manual_seed(0)
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16, pad_token_id=0,
    )
)  # fmt: skip
reselect = ReselectCallback(Texts(120, seed=0), 0.2, every=4, selector="grand", collate_fn=pad)
with tempfile.TemporaryDirectory() as place:
    arguments = TrainingArguments(
        place, num_train_epochs=8, per_device_train_batch_size=8, learning_rate=3e-3,
        use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, data_collator=pad, train_dataset=reselect.subset,
        eval_dataset=Texts(60, seed=1), compute_metrics=accuracy, callbacks=[reselect],
    )  # fmt: skip
    trainer.train()
    measured = trainer.evaluate()
print(
    f"{len(reselect.subset)} of 120 texts, chosen twice: "
    f"held-out accuracy {measured['eval_accuracy']:.2f}"
)
