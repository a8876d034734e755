"""The folder of a transformer with its tokeniser, as packages of pretrained weights hold it."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer


def tiny_pretrained(folder: Path) -> Path:
    """Write a BERT of two narrow layers, whose tokens are letters."""
    letters = string.ascii_lowercase
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{a}" for a in letters)]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={token: place for place, token in enumerate(tokens)}).save_pretrained(
        folder
    )
    return folder
