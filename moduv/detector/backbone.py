"""A small residual pyramid for small images, trained from scratch: the `street` detector's backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

CHANNELS_PER_GROUP = 8


def norm(channels: int) -> nn.Module:
    """Group norm: batches are small, and a shrunken frame on grey has other statistics than a whole one."""
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = norm(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), norm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class StreetBackbone(nn.Module):
    """Features at strides 4, 8, 16, … of equal width, and one level more by subsampling.

    `widths` are the channels of the stem (stride 2) and of the stages (strides 4, 8, 16, …).
    """

    def __init__(self, widths: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        stem, *stages = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, 1, bias=False), norm(stem), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList(
            ResidualBlock(before, width, stride=2)
            for before, width in zip(widths[:-1], stages, strict=True)
        )
        self.fpn = FeaturePyramidNetwork(stages, out_channels, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> levels "0" (H / 4), "1" (H / 8), …, "pool"."""
        x = self.stem(x)
        features = OrderedDict()
        for level, stage in enumerate(self.stages):
            x = stage(x)
            features[str(level)] = x
        return self.fpn(features)
