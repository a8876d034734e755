"""Lightning: data modules, limits, overfitting and resuming with a subset chosen anew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from programs import run_program
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lipt_cords import ReselectingLoader
from lipt_cords.training.adapters.lightning import ReselectCallback

LABELS = torch.arange(60) % 3
ROWS = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) + LABELS[:, None]
DATA = TensorDataset(ROWS, LABELS)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(6, 3)
        self.read: list[list[list[float]]] = []

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
        x, y, weights = batch
        self.read = [*([] if number == 0 else self.read), x.tolist()]
        return (weights * functional.cross_entropy(self.net(x), y, reduction="none")).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Data(lightning.LightningDataModule):
    def train_dataloader(self) -> ReselectingLoader:
        return ReselectingLoader(DATA, 0.2, every=2, batch_size=4)


def trainer(epochs: int, place: Path, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, default_root_dir=place,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ReselectCallback(lambda module: module.net)],
        **{"enable_checkpointing": False, **options},
    )  # fmt: skip


@pytest.mark.parametrize("step", [4, 6, 8])
def test_a_data_module_reselects_and_resumes_with_the_same_bits(tmp_path: Path, step: int) -> None:
    whole, begun, resumed = Module(), Module(), Module()
    full = trainer(4, tmp_path)
    full.fit(whole, datamodule=Data())
    loader = full.train_dataloader
    assert isinstance(loader, ReselectingLoader) and loader.state_dict()["chosen_in"] == 2
    keep = ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=step)
    first = trainer(-1, tmp_path, enable_checkpointing=True, max_steps=step)
    first.callbacks.append(keep)
    first.fit(begun, datamodule=Data())
    trainer(4, tmp_path).fit(resumed, datamodule=Data(), ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(whole.net.weight, resumed.net.weight)
    assert not torch.equal(whole.net.weight, begun.net.weight)


def test_limits_and_overfitting_read_the_selection(tmp_path: Path) -> None:
    module, limited = Module(), trainer(2, tmp_path, limit_train_batches=2)
    limited.fit(module, ReselectingLoader(DATA, 0.2, every=5, batch_size=4))
    assert len(module.read) == 2
    module, few = Module(), trainer(2, tmp_path, overfit_batches=2)
    few.fit(module, ReselectingLoader(DATA, 0.2, every=5, batch_size=4))
    chosen = few.train_dataloader.selection.indices
    assert torch.equal(torch.tensor(module.read).flatten(0, 1), ROWS[chosen[:8]])


def test_another_loader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reads no ReselectingLoader"):
        trainer(1, tmp_path).fit(Module(), DataLoader(DATA, batch_size=30))


def test_ranks_of_ddp_share_one_subset_and_lose_nothing() -> None:
    script = Path(__file__).parents[2] / "support/lightning_ranks.py"
    done = run_program(script, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line.partition(": ")[2] for line in done.stdout.splitlines() if "rank " in line]
    assert len(said) == 2 and said[0] == said[1] and "13 samples an epoch, each once" in said[0]
