"""Motion of the camera, or of one object, between two frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moduv.depth.networks.resnet import ResNetEncoder


class PoseDecoder(nn.Module):
    """Six numbers from the last feature; the layers are named by number alone, see `depth.networks.pose`."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(ResNetEncoder.channels[-1], 256, 1)]
        layers += [nn.Conv2d(256, 256, 3, padding=1) for _ in range(2)]
        # Two motions, of which the first is used, as in the official checkpoints.
        self.net = nn.ModuleList([*layers, nn.Conv2d(256, 12, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net[:-1]:
            x = F.relu(layer(x))
        return 0.01 * self.net[-1](x).mean((2, 3))[:, :6]


class PoseNet(nn.Module):
    """ResNet-18 on two stacked frames."""

    def __init__(self) -> None:
        super().__init__()
        self.pose_encoder = ResNetEncoder(2)
        self.pose_decoder = PoseDecoder()

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, H, W) in [0, 1], in the order of time, to Euler angles (B, 3), radians, and translation.

        They make the matrix that brings points from the first camera's coordinates to the second's.
        """
        features = self.pose_encoder(torch.cat([first, second], 1))
        angles, translation = self.pose_decoder(features[-1]).chunk(2, 1)
        return angles, translation
