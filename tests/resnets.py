"""The residual networks of the benchmarks; `--arch` takes this file.

He et al., arXiv 1512.03385, 4.2, with shortcuts that have no parameters.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's maps."""
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.bn2(self.conv2(maps))
        shortcut = images
        if self.padding:
            shortcut = images[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(maps + shortcut)


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 maps for images of 32 x 32."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of ten classes."""
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        pooled: Tensor = self.linear(maps.mean((2, 3)))
        return pooled


def resnet_20() -> nn.Module:
    """Build ResNet-20, 269,722 parameters."""
    return ResNet(3)


def resnet_56() -> nn.Module:
    """Build ResNet-56, 853,018 parameters."""
    return ResNet(9)


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Module:
    rest = {str(number): Block(outputs, outputs, 1) for number in range(1, blocks)}
    return nn.Sequential(OrderedDict({"0": Block(inputs, outputs, stride), **rest}))
