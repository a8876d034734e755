"""With Lightning: a loader that chooses its subset anew every three epochs, and its callback."""

import logging
import warnings

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lipt_cords import LiPTWarmStart, ReselectingLoader
from lipt_cords.data import load_dataset
from lipt_cords.models import build_model
from lipt_cords.training.adapters.lightning import ReselectCallback

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")


class Classifier(lightning.LightningModule):
    """The weighted loss of a batch, and accuracy on held-out data."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        x, y, weights = batch
        losses = functional.cross_entropy(self.net(x), y, reduction="none")
        return (weights * losses).mean()

    def test_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


digits = load_dataset("digits")
net = build_model("cnn", digits.num_classes, in_channels=1, image_size=8)
warm = LiPTWarmStart(num_workers=8).fit(net, digits.train, digits.val)
loader = ReselectingLoader(digits.train, 130, every=3, batch_size=16)
trainer = lightning.Trainer(
    max_epochs=9, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[ReselectCallback(lambda module: module.net)],
)  # fmt: skip
classifier = Classifier(warm.apply_to(net))
trainer.fit(classifier, loader)
(measured,) = trainer.test(classifier, DataLoader(digits.test, batch_size=359), verbose=False)
print(f"test accuracy {measured['accuracy']:.1%}")
