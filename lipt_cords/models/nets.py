"""Small networks for small images and for rows, written out: the ones that comparisons use.

Each ends with one ``nn.Linear``, so its head is found without help.
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def initialise(model: nn.Module) -> None:
    """He initialisation for ReLU networks; BatchNorm starts as the identity, biases at zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class SmallCNN(nn.Module):
    """Three convolutions with BatchNorm and a 2x2 pooled head: 20,000 weights, any image >= 4x4."""

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, pool in ((in_channels, 16, True), (16, 32, True), (32, 48, False)):
            layers += [_conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pool else []
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(48 * 4, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class MLP(nn.Module):
    """Two hidden layers of 128 with ReLU, for rows of a table; images are read pixel by pixel."""

    def __init__(self, num_classes: int, inputs: int, width: int = 128) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, num_classes)
        initialise(self)

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(rows))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, BatchNorm after each convolution (He et al., 2016).

    The shortcut is the identity where shapes allow it, else a strided 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return out


class CifarResNet(nn.Module):
    """The residual networks for 32x32 images of He et al. (2016): 6n + 2 layers in three stages.

    Args:
        blocks: residual blocks in a stage, n.
        width: channels of the first stage; doubled at each of the next two.
    """

    def __init__(
        self, blocks: int, num_classes: int, in_channels: int = 3, width: int = 16
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(in_channels, width), nn.BatchNorm2d(width), nn.ReLU())
        stages: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(ResidualBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(images))))
        return logits


class WideBlock(nn.Module):
    """A pre-activation residual block (Zagoruyko and Komodakis, 2016).

    Where the shape changes, the shortcut reads the activated input, as the residual branch does.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.branch = nn.Sequential(
            _conv(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv(outputs, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        beside = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(activated)
        out: Tensor = self.branch(activated) + beside
        return out


class WideResNet(nn.Module):
    """WRN-depth-widen for 32x32 images: pre-activation blocks in three wide stages."""

    def __init__(self, depth: int, widen: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.stem = _conv(in_channels, 16)
        stages: list[nn.Module] = []
        inputs = 16
        for stage in range(3):
            outputs = 16 * widen * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(WideBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(inputs, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(images))))
        return logits
