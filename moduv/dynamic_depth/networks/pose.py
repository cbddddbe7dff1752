"""Motion of the camera, or of one object, between two frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moduv.depth.networks.resnet import ResNetEncoder


class PoseDecoder(nn.Module):
    """Pose from the last feature; unlike those of `depth.networks.pose`, the layers are named by number alone."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(ResNetEncoder.channels[-1], 256, 1)]
        layers += [nn.Conv2d(256, 256, 3, padding=1) for _ in range(2)]
        # Two motions, of which the first is used, as in the official checkpoints.
        self.net = nn.ModuleList([*layers, nn.Conv2d(256, 12, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 512, h, w) to three angles and a translation, (B, 6)."""
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
        """Frames (B, 3, H, W) in [0, 1], in temporal order, to Euler angles (B, 3) in radians and translations (B, 3).

        Together they are the transformation from the first camera's coordinates to the second's.
        """
        features = self.pose_encoder(torch.cat([first, second], 1))
        angles, translation = self.pose_decoder(features[-1]).chunk(2, 1)
        return angles, translation
