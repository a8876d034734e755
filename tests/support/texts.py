"""Token sequences of different lengths, and small nets that classify them, as transformers do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

VOCABULARY, PAD = 30, 0


class Texts(Dataset[dict[str, Any]]):
    """Lists of token ids as a tokeniser gives them; the class decides which ids are likely."""

    def __init__(self, samples: int, classes: int = 2, seed: int = 0, **extra: Any) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.rows, self.extra = [], extra
        for index in range(samples):
            label = index % classes
            length = int(torch.randint(3, 9, (1,), generator=draws))
            low = 1 + label * (VOCABULARY - 1) // classes
            high = 1 + (label + 1) * (VOCABULARY - 1) // classes
            ids = torch.randint(low, high, (length,), generator=draws).tolist()
            self.rows.append((ids, label))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids, label = self.rows[index]
        return {"input_ids": ids, "label": label, **self.extra}


def padded(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Pads to the longest, with a mask, as transformers' DataCollatorWithPadding."""
    longest = max(len(item["input_ids"]) for item in items)
    ids = torch.full((len(items), longest), PAD)
    mask = torch.zeros(len(items), longest, dtype=torch.int64)
    for row, item in enumerate(items):
        ids[row, : len(item["input_ids"])] = torch.tensor(item["input_ids"])
        mask[row, : len(item["input_ids"])] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    return {**batch, "labels": torch.tensor([item["label"] for item in items])}


class TokenHead(nn.Module):
    """Its head reads every token; ``pool`` makes the logits of a sample.

    Args:
        pool: ``last``, ``mean``, ``max``, ``sum`` or ``doubled`` (twice the last).
        form: ``logits``, ``named`` or ``second`` of a pair.
    """

    def __init__(
        self, pool: str = "last", form: str = "named", classes: int = 2, bias: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool, self.form = pool, form
        self.embed = nn.Embedding(VOCABULARY, 12)
        self.mix = nn.GRU(12, 12, batch_first=True)
        self.proj = nn.Linear(12, 12)
        self.score = nn.Linear(12, classes, bias=bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = self.proj(self.mix(self.embed(input_ids))[0]).tanh()
        scores = self.score(hidden)
        mask = attention_mask[:, :, None].to(scores.dtype)
        last = attention_mask.sum(dim=1) - 1
        logits = {
            "last": lambda: scores[torch.arange(len(scores)), last],
            "mean": lambda: (scores * mask).sum(dim=1) / mask.sum(dim=1),
            "sum": lambda: (scores * mask).sum(dim=1),
            "max": lambda: scores.amax(dim=1),
            "doubled": lambda: 2 * scores[torch.arange(len(scores)), last],
        }[self.pool]()
        return {"logits": logits, "named": {"logits": logits}, "second": (hidden, logits)}[
            self.form
        ]
