"""A Lightning run under DDP: every rank says what it read, and of which subset."""

from __future__ import annotations

import logging
import os
import tempfile

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from lipt_cords import ReselectingLoader
from lipt_cords.training.adapters.lightning import ReselectCallback

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
LABELS = torch.arange(60) % 3
ROWS = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) + LABELS[:, None]


class Numbered(Dataset):
    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return ROWS[index], LABELS[index], index


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.read = nn.Linear(6, 3), [[], [], []]

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], number: int) -> Tensor:
        x, y, index, weights = batch
        self.read[self.current_epoch] += index[weights > 0].tolist()
        return (weights * functional.cross_entropy(self.net(x), y, reduction="none")).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


module = Module()
loader = ReselectingLoader(Numbered(), 13, every=2, batch_size=4)
with tempfile.TemporaryDirectory() as place:
    lightning.Trainer(
        max_epochs=3, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=place, callbacks=[ReselectCallback(lambda one: one.net)],
    ).fit(module, loader)  # fmt: skip
everybody: list[list[list[int]] | None] = [None, None]
torch.distributed.all_gather_object(everybody, module.read)
first, second = everybody
epochs = [sorted(a + b) for a, b in zip(first, second, strict=True)]
assert all(len(one) == len(set(one)) == 13 for one in epochs), "lost or doubled"
assert epochs[0] == epochs[1] != epochs[2] == sorted(loader.selection.indices.tolist())
total = float(module.net.weight.detach().double().sum())
print(f"rank {os.environ['RANK']}: 13 samples an epoch, each once, weights {total:.12f}")
