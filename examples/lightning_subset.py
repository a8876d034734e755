"""With Lightning: the subset's loader is a DataLoader, re-selected between epochs by a callback."""

import logging
import warnings

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lipt_cords import LiPTWarmStart, SubsetLoader, last_layer_gradients, select
from lipt_cords.data import load_dataset
from lipt_cords.models import build_model

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


class Reselect(lightning.Callback):
    """A new subset every few epochs, by the model as it is."""

    def __init__(self, loader: SubsetLoader, pool: object, every: int) -> None:
        self.loader, self.pool, self.every = loader, pool, every

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Classifier) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:
            gradients = last_layer_gradients(module.net, self.pool)
            seed = trainer.current_epoch
            budget = len(self.loader.selection)
            self.loader.reselect(select("importance", gradients, budget, seed=seed))


digits = load_dataset("digits")
net = build_model("cnn", digits.num_classes, in_channels=1, image_size=8)
warm = LiPTWarmStart(num_workers=8).fit(net, digits.train, digits.val)
subset = select("importance", warm.gradients(digits.train), budget=130)
loader = SubsetLoader(digits.train, subset, batch_size=16)
trainer = lightning.Trainer(
    max_epochs=9, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[Reselect(loader, digits.train, every=3)],
)  # fmt: skip
classifier = Classifier(warm.apply_to(net))
trainer.fit(classifier, loader)
(measured,) = trainer.test(classifier, DataLoader(digits.test, batch_size=359), verbose=False)
print(f"test accuracy {measured['accuracy']:.1%}")
