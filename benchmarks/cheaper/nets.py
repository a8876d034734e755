"""A net with as many residual blocks as BERT-base."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipt_cords.base.randomness import isolated_rng


class PatchEncoder(nn.Module):
    """A transformer encoder over the 16 patches of 7x7 of an image of 28x28.

    Args:
        blocks: residual blocks.
        width: of the embeddings.
        seed: of the weights.
    """

    def __init__(self, blocks: int = 12, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        with isolated_rng(seed, "patch encoder"):
            self.embed = nn.Linear(49, width)
            self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
            layer = nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        patches = images.unfold(2, 7, 7).unfold(3, 7, 7).reshape(len(images), 16, 49)
        logits: Tensor = self.head(
            self.norm(self.encoder(self.embed(patches) + self.places)).mean(1)
        )
        return logits
