"""The pose decoder: from the features of two stacked frames to six numbers (Zhou et al. 2017)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn


class PoseDecoder(nn.Module):
    """Axis-angle and translation from the last feature of an encoder.

    The last layer gives two poses, of which the first is used, as in the official checkpoints; they
    also list every layer twice, by name and in `net`.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, 256, 1)
        self.pose0 = nn.Conv2d(256, 256, 3, padding=1)
        self.pose1 = nn.Conv2d(256, 256, 3, padding=1)
        self.pose2 = nn.Conv2d(256, 12, 1)
        self.net = nn.ModuleList([self.squeeze, self.pose0, self.pose1, self.pose2])

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features, finest first, to axis-angle (B, 3) in radians and translation (B, 3)."""
        x = features[-1]
        for layer in self.net[:-1]:
            x = F.relu(layer(x))
        pose = 0.01 * reduce(self.pose2(x), "b pose h w -> b pose", "mean")
        return pose[:, :3], pose[:, 3:6]
