"""A search over rates and subsets for the price of one warm start: chosen once, used in each trial.

This is where a fixed subset pays: every trial trains on a tenth of the data, and the winner on all
of it at the end.
"""

from itertools import product

import torch

from lipt_cords import LiPTWarmStart, Selection, select, train_on_subset
from lipt_cords.data import load_dataset
from lipt_cords.models import build_model

digits = load_dataset("digits")


def net():
    return build_model("cnn", digits.num_classes, in_channels=1, image_size=8)


warm = LiPTWarmStart(num_workers=8).fit(net(), digits.train, digits.val)
gradients = warm.gradients(digits.train)
subsets = {name: select(name, gradients, 130) for name in ("random", "stratified", "gradmatch")}
found = {}
for lr, (name, subset) in product((0.005, 0.02, 0.08), subsets.items()):
    trial = train_on_subset(
        net(), digits.train, subset, val_dataset=digits.val, epochs=15, batch_size=16, lr=lr,
        eval_every=15,
    )  # fmt: skip
    found[lr, name] = trial.val_accuracy
    print(f"lr {lr:<6} {name:10s} {trial.val_accuracy:.1%}")
lr, name = max(found, key=found.get)
everything = Selection(torch.arange(len(digits.train)), torch.ones(len(digits.train)))
final = train_on_subset(
    net(), digits.train, everything, val_dataset=digits.test, epochs=5, lr=lr, eval_every=5
)
print(f"best: lr {lr} on {name}; trained on everything, test accuracy {final.val_accuracy:.1%}")
