"""Nets to train, and a training step of any of them on one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.models import build_model
from lipt_cords.warmstart.memory import MemoryPlanner, Plan, Trace


class Encoder(nn.Module):
    """A transformer encoder with dropout, over tokens that are embedded already."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(tokens).mean(1))
        return logits


class Stage(nn.Sequential):
    """Layers of a VGG up to its next pooling: what its checkpoints lie between."""


def resnet(name: str) -> nn.Module:
    """One of ours."""
    return build_model(name, 10, seed=0)


def torchvision(name: str, classes: int = 10) -> nn.Module:
    """One of torchvision's."""
    with isolated_rng(0, name):
        net: nn.Module = getattr(models, name)(num_classes=classes)
    return net


def encoder(width: int, layers: int) -> nn.Module:
    """An encoder."""
    with isolated_rng(0, "encoder"):
        return Encoder(width, layers)


def small_vgg16() -> nn.Module:
    """torchvision's VGG-16 with the head that small images get: its own has nine times the rest."""
    net: Any = torchvision("vgg16")
    stages, layers = list[nn.Module](), list[nn.Module]()
    for layer in net.features:
        layers.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            stages.append(Stage(*layers))
            layers = []
    net.features, net.avgpool = nn.Sequential(*stages), nn.AdaptiveAvgPool2d(1)
    with isolated_rng(0, "head"):
        net.classifier = nn.Sequential(
            nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(512, 10)
        )
    whole: nn.Module = net
    return whole


@dataclass(frozen=True)
class Case:
    """A net and its batch."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    half: bool = False
    """Whether its forward pass runs under bf16 autocast."""
    on_gpu: tuple[int, ...] = ()
    """The batch that a GPU gets."""


EXACT = (
    Case("ResNet-20", partial(resnet, "resnet20"), (8, 3, 32, 32)),
    Case("ResNet-20, bf16", partial(resnet, "resnet20"), (8, 3, 32, 32), True),
    Case("ResNet-56", partial(resnet, "resnet56"), (8, 3, 32, 32)),
    Case("ResNet-50", partial(torchvision, "resnet50"), (8, 3, 64, 64)),
    Case("VGG-16", partial(torchvision, "vgg16"), (8, 3, 64, 64)),
    Case("Transformer", partial(encoder, 64, 4), (8, 32, 64)),
    Case("Transformer, bf16", partial(encoder, 64, 4), (8, 32, 64), True),
)
OVERHEAD = (
    Case("ResNet-56", partial(resnet, "resnet56"), (128, 3, 32, 32), on_gpu=(1024, 3, 32, 32)),
    Case("ResNet-50", partial(torchvision, "resnet50"), (64, 3, 64, 64), on_gpu=(128, 3, 224, 224)),
    Case("VGG-16", small_vgg16, (32, 3, 64, 64), on_gpu=(128, 3, 224, 224)),
    Case("Transformer", partial(encoder, 256, 6), (16, 128, 256), on_gpu=(256, 512, 256)),
)


class Training:
    """A net in training on one batch, with SGD and momentum.

    Args:
        case: the net, its batch, and whether it runs in bf16.
        device: where.
    """

    def __init__(self, case: Case, device: str = "cpu") -> None:
        self.case, self.device = case, torch.device(device)
        self.net = case.build().to(device).train()
        draws = torch.Generator().manual_seed(1)
        shape = case.on_gpu if self.device.type == "cuda" else case.shape
        self.inputs = torch.randn(shape, generator=draws).to(device)
        self.labels = torch.randint(0, 10, shape[:1], generator=draws).to(device)
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    def gradients(self, around: AbstractContextManager[Any] | None = None) -> Tensor:
        """Forward pass, loss and backward pass; the loss."""
        half = self.case.half
        with around or nullcontext():
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
                logits = self.net(self.inputs)
            loss = F.cross_entropy(logits.float(), self.labels)
            loss.backward()
        return loss.detach()

    def step(self, around: AbstractContextManager[Any] | None = None, seed: int = 0) -> Tensor:
        """A whole step; the loss. Its gradients are there until the next one."""
        torch.manual_seed(seed)
        self.sgd.zero_grad()
        loss = self.gradients(around)
        self.sgd.step()
        return loss

    def bits(self, loss: Tensor) -> dict[str, str]:
        """Digests of all that a step leaves: equal if and only if every bit is."""
        found = [parameter.grad for parameter in self.net.parameters()]
        return {
            "loss": digest([loss]),
            "gradients": digest([gradient for gradient in found if gradient is not None]),
            "weights": digest(self.net.parameters()),
            "buffers": digest(self.net.buffers()),
            "random state": digest([torch.get_rng_state()]),
        }


def digest(tensors: Iterable[Tensor]) -> str:
    """Of all bytes, in order."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


class Planner(MemoryPlanner):
    """A planner that remembers its plan as it was made, before any step moved a trigger of it."""

    made: Plan | None = None

    def plan_for(self, trace: Trace) -> Plan:
        """Plan it."""
        self.made = super().plan_for(trace)
        return self.made


def measured(training: Training) -> Trace:
    """The trace of a step, with the optimizer's state there; takes two steps."""
    planner = MemoryPlanner(training.net, budget=2**60, optimizer=training.sgd)
    for _ in range(2):
        training.step(planner)
    return planner.traces[0]
