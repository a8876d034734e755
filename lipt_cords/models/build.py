"""Networks by name, and everything that the rest of the package needs of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.base.registry import Registry
from lipt_cords.models.nets import MLP, CifarResNet, SmallCNN, WideResNet
from lipt_cords.models.outside import TIMM, build_outside

SMALL_IMAGE = 64
"""Largest image side, in pixels, for which torchvision's nets get a 3x3 stem without pooling."""

_ALIASES = {
    "mnistnet": "cnn",
    "wideresnet": "wrn-28-10",
}
"""CORDS's spellings."""


def _plain(name: object) -> str:
    return str(name).lower().replace("-", "").replace("_", "")


ModelFunction = Callable[[int, int, int], nn.Module]
MODELS: Registry[ModelFunction] = Registry(
    "model", takes=("num_classes", "in_channels", "image_size"), images=None
)
"""``images``: whether it reads images alone; None: not known."""


def register_model(
    name: str, *, images: bool | None = None
) -> Callable[[ModelFunction], ModelFunction]:
    """Make a network known by a name.

    The function takes the number of classes, the channels of the images and their side in pixels
    (of a table the inputs of a row, and 1), and returns a module that ends in a linear head. It
    draws its weights from torch's global random state, which is seeded for it.

    Args:
        name: must be free.
        images: whether it reads images alone, so that tables are refused; None: not known.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.
    """
    plain = _plain(name)
    for known in (*MODELS.names(), *_ALIASES):
        if plain == _plain(known) and (name.lower() != known or known in _ALIASES):
            raise ValueError(
                f"a model named {name!r} is the known {known!r}, for case, hyphens and underscores "
                "do not matter: choose another name"
            )
    return MODELS.register(name, images=images)


@register_model("cnn", images=True)
def _cnn(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Two convolutions and a head, for small images."""
    return SmallCNN(num_classes, in_channels)


@register_model("resnet8", images=True)
def _resnet8(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The ResNet for CIFAR with 8 layers (He et al., CVPR 2016)."""
    return CifarResNet(1, num_classes, in_channels)


@register_model("resnet20", images=True)
def _resnet20(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The ResNet for CIFAR with 20 layers (He et al., CVPR 2016)."""
    return CifarResNet(3, num_classes, in_channels)


@register_model("resnet56", images=True)
def _resnet56(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The ResNet for CIFAR with 56 layers (He et al., CVPR 2016)."""
    return CifarResNet(9, num_classes, in_channels)


@register_model("wrn-28-10", images=True)
def _wrn_28_10(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The wide ResNet with 28 layers (Zagoruyko, Komodakis, BMVC 2016)."""
    return WideResNet(28, 10, num_classes, in_channels)


@register_model("resnet18", images=True)
def _resnet18(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18, with a small stem for small images."""
    return _torchvision_net("resnet18", num_classes, in_channels, image_size)


@register_model("resnet50", images=True)
def _resnet50(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-50, with a small stem for small images."""
    return _torchvision_net("resnet50", num_classes, in_channels, image_size)


@register_model("wide_resnet50_2", images=True)
def _wide_resnet50_2(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """torchvision's wide ResNet-50, with a small stem for small images."""
    return _torchvision_net("wide_resnet50_2", num_classes, in_channels, image_size)


@register_model("mlp")
def _mlp(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Two hidden layers, for rows of a table or small images."""
    return MLP(num_classes, in_channels * image_size**2)


MODEL_NAMES: tuple[str, ...] = MODELS.names()
"""Names of this package; CORDS's spellings of the same nets work too."""


def build_model(
    name: str, num_classes: int, *, in_channels: int = 3, image_size: int = 32, seed: int = 0
) -> nn.Module:
    """Build a network with weights drawn from a seed.

    Args:
        name: one of ``MODEL_NAMES`` or a registered one; case, hyphens and underscores do not
            matter, and CORDS's ``ResNet18`` and ``MnistNet`` are understood. ``timm:resnet18`` is
            timm's, without pretrained weights (extra ``timm``); ``my_module:make_net`` calls a
            function of a module of your own with those of ``num_classes``, ``in_channels`` and
            ``image_size`` that it takes.
        num_classes: outputs of the head.
        in_channels: channels of the images; of a table the inputs of a row.
        image_size: side of the images in pixels, 1 for a table; up to 64, torchvision's nets get a
            3x3 stem of stride 1 and no max-pooling.
        seed: seed of the initial weights; the global random state is left as it was.

    Raises:
        ValueError: an unknown name, a size that is not positive, or a function that makes no net.
        ImportError: timm is named and not installed.

    >>> import torch
    >>> build_model("cnn", 10, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    known = name if ":" in name else canonical_model_name(name)
    for option, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{option} must be at least 1, received {value}")
    with isolated_rng(seed, "model"):
        make = partial(build_outside, name) if ":" in name else MODELS[known]
        built = make(num_classes, in_channels, image_size)
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"model {name!r} is built as a {type(built).__name__}: expected a torch.nn.Module"
        )
    return built


def canonical_model_name(name: str) -> str:
    """The project's name of a network.

    >>> canonical_model_name("ResNet18"), canonical_model_name("WRN-28-10")
    ('resnet18', 'wrn-28-10')
    """
    plain = _plain(name)
    for known in MODELS.names():
        if plain == _plain(known):
            return known
    if plain in _ALIASES:
        return _ALIASES[plain]
    return MODELS.entry(name).name


def reads_images(name: str) -> bool:
    """Whether a net is known to read images and nothing else.

    >>> reads_images("ResNet18"), reads_images("mlp"), reads_images("timm:resnet18")
    (True, False, True)
    """
    if ":" in name:
        return name.startswith(f"{TIMM}:")
    return MODELS.entry(canonical_model_name(name)).facts["images"] is True


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
