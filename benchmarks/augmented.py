"""Trainings of the field's table: images in memory, moved and mirrored anew in every epoch.

``resnet18`` is trained as the field does: SGD at 0.1 with Nesterov momentum, weight decay 5e-4,
cosine, batches of 128, crops of images padded by 4 pixels, mirrored at random. ``fast`` is a small
net after Jordan's "94 % on CIFAR-10 in 3.29 seconds" (arXiv 2404.00498): a first layer of whitened
patches that is not trained, three blocks of two convolutions, Muon, label smoothing 0.2, a rate
that falls to zero along a line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.chosen_batches import shuffled
from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.source import BatchSource
from lipt_cords.models import build_model
from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.training.evaluation import accuracy
from lipt_cords.training.optimizers import OPTIMIZERS, OptimizerOptions
from lipt_cords.training.schedules import Schedule, rate_factor

WIDTHS = (64, 256, 256)
SMALLEST_EIGENVALUE = 5e-4
WARM_STEPS = 20


@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Attributes:
        make: the net, of the pool's images, the classes and a seed.
        optimizer: what it is trained with.
        batch: samples in a step, or those of the subset where they are fewer.
        schedule: of the rate, which rises over the first steps.
        smoothing: of the labels.
        shift: pixels by which an image moves at most.
    """

    make: Callable[[ImageTensors, int, int], nn.Module]
    optimizer: str
    options: dict[str, Any]
    batch: int
    schedule: Schedule = "cosine"
    smoothing: float = 0.0
    shift: int = 4


class FastNet(nn.Module):
    """Whitened patches of 2 by 2, three blocks, the largest response of each map, a linear head.

    Args:
        images: of the pool, normalised, (N, C, H, W); the first layer is made of their patches.
        classes: outputs.
    """

    def __init__(self, images: Tensor, classes: int) -> None:
        super().__init__()
        filters = whitened_patches(images)
        self.first = nn.Conv2d(images.shape[1], len(filters), 2)
        self.first.weight = nn.Parameter(filters, requires_grad=False)
        widths = (len(filters), *WIDTHS)
        self.blocks = nn.Sequential(*(_block(a, b) for a, b in itertools.pairwise(widths)))
        self.head = nn.Linear(WIDTHS[-1], classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(F.gelu(self.first(images)))
        return self.head(maps.amax(dim=(2, 3))) / 9


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs, momentum=0.4),
        nn.GELU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.4),
        nn.GELU(),
    )


def whitened_patches(images: Tensor) -> Tensor:
    """Principal components of the patches of 2 by 2, each with unit variance, and their negatives.

    Returns:
        (2 P, C, 2, 2) with P = 4 C.
    """
    patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 4 * images.shape[1]).double()
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    filters = vectors.T / (values + SMALLEST_EIGENVALUE).sqrt()[:, None]
    filters = filters.float().reshape(-1, images.shape[1], 2, 2)
    return torch.cat([filters, -filters])


def _fast(pool: ImageTensors, classes: int, seed: int) -> nn.Module:
    some = torch.randperm(len(pool), generator=generator(seed, "patches"))[:5_000]
    with isolated_rng(seed, "model"):
        return FastNet(pool.gather(some)[0].cpu(), classes)


def _resnet18(pool: ImageTensors, classes: int, seed: int) -> nn.Module:
    channels, size = pool.images.shape[1:3]
    return build_model("resnet18", classes, in_channels=channels, image_size=size, seed=seed)


RECIPES = {
    "resnet18": Recipe(
        _resnet18, "sgd", {"lr": 0.1, "weight_decay": 5e-4, "nesterov": True}, batch=128
    ),
    "fast": Recipe(
        _fast, "muon", {"lr": 0.24, "momentum": 0.6, "nesterov": True, "rest_lr": 0.1}, batch=500,
        schedule="linear", smoothing=0.2, shift=2,
    ),
}  # fmt: skip


def train(
    recipe: Recipe,
    pool: ImageTensors,
    indices: Tensor,
    test: ImageTensors,
    *,
    classes: int,
    passes: int,
    seed: int,
    device: str,
) -> float:
    """Test accuracy after training from scratch on some of the pool.

    Args:
        indices: of the subset.
        passes: at least so many samples are trained on.
    """
    images, labels = (part.to(device) for part in pool.gather(indices))
    net = recipe.make(pool, classes, seed).to(device, memory_format=torch.channels_last)
    batch = min(recipe.batch, len(labels))
    steps = max(1, math.ceil(passes / batch))
    wanted = [one for one in net.parameters() if one.requires_grad]
    precision = torch.bfloat16
    optimizer = OPTIMIZERS[recipe.optimizer](
        wanted,
        OptimizerOptions(
            matrices=tuple(hidden_matrices(net)), fused=True, precision=precision, **recipe.options
        ),
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    draws = generator(seed, "order")
    batches = shuffled(torch.arange(len(labels)), batch, draws)
    net.train()
    for step in range(steps):
        chosen = next(batches).to(device)
        left = rate_factor(recipe.schedule, step, steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * left * min(1.0, (step + 1) / WARM_STEPS)
        inputs = moved(images[chosen], recipe.shift, draws)
        with torch.autocast(torch.device(device).type, dtype=precision):
            logits = net(inputs.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=recipe.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return accuracy(net, BatchSource(test, device=device))


def moved(images: Tensor, shift: int, draws: torch.Generator) -> Tensor:
    """Each image moved by up to ``shift`` pixels, edges reflected, and mirrored at random.

    Args:
        images: (B, C, H, W).
    """
    count, _, height, width = images.shape
    down, right = torch.randint(2 * shift + 1, (2, count), generator=draws)
    mirrored = torch.rand(count, generator=draws) < 0.5
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = F.pad(images, (shift,) * 4, mode="reflect").permute(0, 2, 3, 1)
    place = (part.to(images.device) for part in (torch.arange(count), rows, columns))
    which, rows, columns = place
    taken = padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2)
