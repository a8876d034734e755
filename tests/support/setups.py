"""Set-ups of nets and data that a user may have, small, for the table of docs/models.md.

python tests/support/setups.py      writes the table
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from texts import PAD, VOCABULARY, Texts, padded
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

CLASSES, SAMPLES = 3, 24
PAGE = Path(__file__).resolve().parents[2] / "docs/models.md"
MARKS = re.compile(r"(<!-- set-ups -->\n).*?(<!-- end of set-ups -->)", re.DOTALL)
LABELS = torch.arange(SAMPLES) % CLASSES


@dataclass(frozen=True)
class Setup:
    """One row of the table.

    Attributes:
        family: what the models have in common.
        name: of the model.
        model: builds it.
        data: its samples.
        options: of fit, gradients and training, such as ``collate_fn``.
        fit: more options of the warm start.
        train: more options of the training.
        write: what a user writes, in words.
        refused: part of the error where it is refused.
    """

    family: str
    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], Dataset[Any]]
    options: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    write: str = ""
    refused: str = ""


class Keys(Dataset[dict[str, Any]]):
    """Dicts of one tensor and a label."""

    def __init__(self, key: str, values: Tensor) -> None:
        self.key, self.values = key, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {self.key: self.values[index], "labels": int(LABELS[index])}


class Output(nn.Module):
    """Returns its logits in another form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.body, self.fc, self.form = nn.Linear(8, 16), nn.Linear(16, CLASSES), form

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x).relu()
        logits = self.fc(hidden)
        if self.form == "object":
            from transformers.modeling_outputs import SequenceClassifierOutput

            return SequenceClassifierOutput(logits=logits, hidden_states=(hidden,))
        return hidden, logits


def noise(*shape: int) -> Tensor:
    return torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def images(side: int) -> TensorDataset:
    return TensorDataset(noise(3, side, side), LABELS)


def rows(labels: Tensor = LABELS) -> TensorDataset:
    return TensorDataset(noise(8), labels)


def texts() -> Texts:
    return Texts(SAMPLES, classes=CLASSES)


def mlp(outputs: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs))


def of_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        net: nn.Module = getattr(models, name)(num_classes=CLASSES, **options)
        return net

    return build


def vision_transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=CLASSES)


def of_timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        net: nn.Module = timm.create_model(name, num_classes=CLASSES)
        return net

    return build


SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 16, "pad_token_id": PAD,
}  # fmt: skip
OTHERWISE: dict[str, dict[str, Any]] = {
    "GPT2": {
        "vocab_size": VOCABULARY, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16,
        "pad_token_id": PAD,
    },
    "DistilBert": {
        "vocab_size": VOCABULARY, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16,
        "max_position_embeddings": 16, "pad_token_id": PAD,
    },
    "ViT": {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": 16, "patch_size": 8,
    },
}  # fmt: skip


def of_transformers(name: str, task: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        options = OTHERWISE.get(name, SMALL)
        config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **options)
        net: nn.Module = getattr(transformers, f"{name}For{task}")(config)
        return net

    return build


def classifier(name: str, family: str) -> Setup:
    return Setup(
        family, f"{name}ForSequenceClassification", of_transformers(name, "SequenceClassification"),
        texts, {"collate_fn": padded}, write="`collate_fn=DataCollatorWithPadding(tokenizer)`",
    )  # fmt: skip


TABLE = "tables"
SETUPS: Sequence[Setup] = (
    Setup(
        "torchvision", "resnet18", of_torchvision("resnet18"), lambda: images(16),
        fit={"optimizer": "sgd"},
    ),
    Setup(
        "torchvision", "mobilenet_v3_small", of_torchvision("mobilenet_v3_small"),
        lambda: images(32),
    ),
    Setup("torchvision", "VisionTransformer", vision_transformer, lambda: images(16)),
    Setup(
        "torchvision", "squeezenet1_1", of_torchvision("squeezenet1_1"), lambda: images(32),
        write="refused: its classes come from a convolution", refused="no linear head",
    ),
    Setup(
        "timm", "test_resnet", of_timm("test_resnet"), lambda: images(32),
        write="`model: {timm: NAME}` in a configuration",
    ),
    Setup("timm", "test_vit", of_timm("test_vit"), lambda: images(160)),
    classifier("Bert", "transformers, encoders"),
    classifier("Roberta", "transformers, encoders"),
    classifier("DistilBert", "transformers, encoders"),
    classifier("GPT2", "transformers, decoders"),
    classifier("Llama", "transformers, decoders"),
    Setup(
        "transformers, images", "ViTForImageClassification",
        of_transformers("ViT", "ImageClassification"),
        lambda: Keys("pixel_values", noise(3, 16, 16)), write="dicts with `pixel_values`",
    ),
    Setup(
        "transformers, tokens", "BertForTokenClassification",
        of_transformers("Bert", "TokenClassification"), texts, {"collate_fn": padded},
        write="refused: a sample needs one label", refused=r"logits of shape \(batch, classes\)",
    ),
    Setup(TABLE, "an MLP", mlp, rows),
    Setup(
        TABLE, "one output for two classes", lambda: mlp(1), lambda: rows(LABELS % 2),
        write="refused: build it with two outputs", refused="instead of one output",
    ),
    Setup(
        TABLE, "several labels a sample", mlp, lambda: rows(torch.ones(SAMPLES, CLASSES)),
        write="refused: a sample needs one label", refused="multi-label",
    ),
    Setup("outputs", "a ModelOutput", lambda: Output("object"), rows),
    Setup("outputs", "(features, logits)", lambda: Output("pair"), rows),
    Setup(
        "training", "bfloat16 autocast", mlp, rows, fit={"precision": "bf16"},
        train={"precision": "bf16"}, write='`precision="bf16"`',
    ),
    Setup(
        "training", "torch.compile", lambda: torch.compile(mlp(), backend="eager"), rows,
        write="the net inside is warmed up and read",
    ),
)  # fmt: skip


def table() -> str:
    """The table in Markdown."""
    lines = ["| family | model | works | what to pass |", "| --- | --- | --- | --- |"]
    for one in SETUPS:
        name = one.name if " " in one.name else f"`{one.name}`"
        works = "no" if one.refused else "yes"
        lines.append(f"| {one.family} | {name} | {works} | {one.write} |")
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """A page with the present table."""
    return MARKS.sub(lambda found: found[1] + table() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
