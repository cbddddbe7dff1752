"""The features of dense correspondences (Araslanov et al., NeurIPS 2021, section 3): ResNet-18 and a head.

Submodules have the names of the official checkpoints, whose `model` entry is this network's state dict.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from moduv.correspondence.weights import NetworkConfig, read_checkpoint
from moduv.engine import checkpoint
from moduv.engine.errors import InputError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue."""


class Features(NamedTuple):
    """Features (B, C, h, w) of unit length over the channels, where h = H / stride and w = W / stride."""

    res3: Tensor
    """After the third stage, 256 channels."""
    res4: Tensor
    """After the fourth stage, 512 channels; used for label propagation."""
    key: Tensor
    """After the head, 128 channels; used in the losses."""


class Backbone(nn.Module):
    """ResNet-18 without the classifier; the third and fourth stage keep the resolution of the second.

    The first convolution has a stride of 2, or of 1 for features of stride 4.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=stride // 4, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 1)
        self.layer4 = _stage(4 * width, 8 * width, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as in torchvision
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) to the features of the third and the fourth stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        third = self.layer3(self.layer2(self.layer1(x)))
        return third, self.layer4(third)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two residual blocks; the first one's shortcut adapts the channels where they change."""
    shortcut = None
    if inputs != outputs:
        shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs)
    )


class Head(nn.Module):
    """Two 1 x 1 convolutions to the features that the losses compare."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, channels, h, w) to (B, outputs, h, w)."""
        return self.conv2(F.relu(self.bn1(self.conv1(x))))


class CorrespondenceNet(nn.Module):
    """Backbone and head; the defaults are the published network."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        width = self.config.width
        backbone, head = Backbone(width, self.config.stride), Head(8 * width, 2 * width)
        self.fast_net = nn.ModuleDict({"backbone": backbone, "emb_q": head})
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Features:
        """Features of RGB images (B, 3, H, W) in [0, 1], in float32."""
        third, fourth = self.fast_net["backbone"]((images - self.mean) / self.deviation)
        key = self.fast_net["emb_q"](fourth)
        return Features(*(F.normalize(x.float(), dim=1) for x in (third, fourth, key)))


@dataclass(frozen=True)
class TrainedNet:
    """A trained network and the feature by which it propagates best."""

    net: CorrespondenceNet
    feature: str


def read_network(path: str | Path) -> TrainedNet:
    """Load the network of a file, or of the folder of a training, in evaluation mode on the CPU.

    Raises InputError when the file is missing, broken, or holds another network.
    """
    content = read_checkpoint(path)
    net = CorrespondenceNet(content.network)
    checkpoint.load_strict(net, content.state, path)
    return TrainedNet(net.eval(), content.feature)


def load_weights(net: CorrespondenceNet, path: str | Path) -> None:
    """Load a network's weights strictly: an official checkpoint, or one of this library.

    Raises InputError when the file is missing, broken, or holds another network.
    """
    content = read_checkpoint(path)
    if content.network.stride != net.config.stride:  # which the shapes of the weights do not show
        raise InputError(
            f"{path}: was trained with a stride of {content.network.stride}, and the network has "
            f"{net.config.stride}; build it as the file says."
        )
    checkpoint.load_strict(net, content.state, path)
