"""Your own model and your own training loop: only the selection is ours.

The model has two linear layers at its end, so the head whose gradients select is named.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipt_cords import LiPTWarmStart, SubsetLoader, select
from lipt_cords.data import load_dataset


class TwoHeads(nn.Module):
    """A trunk, the classifier that is trained, and another one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.classifier = nn.Linear(64, 10)
        self.auxiliary = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.trunk(x))


digits = load_dataset("digits")
torch.manual_seed(0)
model = TwoHeads()
warm = LiPTWarmStart(num_workers=8).fit(model, digits.train, digits.val)
warm.apply_to(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
loader = None
for epoch in range(12):
    if epoch % 4 == 0:  # re-selected as training goes on, with unbiased weights
        gradients = warm.gradients(digits.train, model=model, head="classifier")
        subset = select("importance", gradients, budget=130, seed=epoch)
        if loader is None:
            loader = SubsetLoader(digits.train, subset, batch_size=16)
        else:
            loader.reselect(subset)
    for x, y, weights in loader:
        loss = (weights * functional.cross_entropy(model(x), y, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
with torch.no_grad():
    right = sum(int(model(x[None]).argmax()) == y for x, y in digits.test)
print(f"test accuracy {right / len(digits.test):.1%}")
