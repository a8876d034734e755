"""Networks by name, and everything that the rest of the package needs of a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.randomness import isolated_rng
from lipt_cords.models.nets import CifarResNet, SmallCNN, WideResNet

SMALL_IMAGE = 64
"""Largest image side, in pixels, for which torchvision's nets get a 3x3 stem without pooling."""

_OWN: dict[str, Callable[[int, int], nn.Module]] = {
    "cnn": SmallCNN,
    "resnet8": lambda classes, channels: CifarResNet(1, classes, channels),
    "resnet20": lambda classes, channels: CifarResNet(3, classes, channels),
    "resnet56": lambda classes, channels: CifarResNet(9, classes, channels),
    "wrn-28-10": lambda classes, channels: WideResNet(28, 10, classes, channels),
}
_TORCHVISION = ("resnet18", "resnet50", "wide_resnet50_2")
_ALIASES = {
    "mnistnet": "cnn",
    "wideresnet": "wrn-28-10",
    "wrn2810": "wrn-28-10",
    "wideresnet502": "wide_resnet50_2",
}

MODEL_NAMES: tuple[str, ...] = (*_OWN, *_TORCHVISION)
"""Names that :func:`build_model` knows; CORDS's spellings of the same nets work too."""


def build_model(
    name: str, num_classes: int, *, in_channels: int = 3, image_size: int = 32, seed: int = 0
) -> nn.Module:
    """Build a network with weights drawn from a seed.

    Args:
        name: one of ``MODEL_NAMES``; case, hyphens and underscores do not matter, and CORDS's
            ``ResNet18`` and ``MnistNet`` are understood.
        num_classes: outputs of the head.
        in_channels: channels of the images.
        image_size: side of the images in pixels; up to 64, torchvision's nets get a 3x3 stem of
            stride 1 and no max-pooling.
        seed: seed of the initial weights; the global random state is left as it was.

    Raises:
        ValueError: an unknown name, or a size that is not positive.

    >>> import torch
    >>> build_model("cnn", 10, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    known = canonical_model_name(name)
    for option, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{option} must be at least 1, received {value}")
    with isolated_rng(seed, "model"):
        if known in _OWN:
            return _OWN[known](num_classes, in_channels)
        return _torchvision_net(known, num_classes, in_channels, image_size)


def canonical_model_name(name: str) -> str:
    """The project's name of a network.

    >>> canonical_model_name("ResNet18"), canonical_model_name("WRN-28-10")
    ('resnet18', 'wrn-28-10')
    """
    plain = str(name).lower().replace("-", "").replace("_", "")
    for known in MODEL_NAMES:
        if plain == known.replace("-", "").replace("_", ""):
            return known
    if plain in _ALIASES:
        return _ALIASES[plain]
    raise unknown_name("model", name, MODEL_NAMES)


def _torchvision_net(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    from torchvision import models

    model: nn.Module = getattr(models, name)(weights=None, num_classes=num_classes)
    stem: nn.Conv2d | None = None
    if image_size <= SMALL_IMAGE:
        stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif in_channels != 3:
        stem = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    if stem is not None:
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = stem
    return model
