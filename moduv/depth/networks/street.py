"""Small depth and pose networks for the `street` preset, at the size of a laptop.

They fill the same places as the published networks and are trained from scratch.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from moduv.depth.networks.resnet import normalise

DEPTH_CHANNELS = (24, 32, 48, 64, 96)
POSE_CHANNELS = (16, 32, 48, 64, 64)


def convolution(inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a projection; halves the size when `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.project = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.project(x))


class DepthEncoder(nn.Module):
    """Image (B, 3, H, W) in [0, 1] to features at 1/2, 1/4, … 1/32 of its size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, DEPTH_CHANNELS[0], stride=2, kernel=5)
        pairs = itertools.pairwise(DEPTH_CHANNELS)
        self.stages = nn.ModuleList(ResidualBlock(*pair, stride=2) for pair in pairs)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = [self.stem(normalise(image).contiguous(memory_format=torch.channels_last))]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


class FieldDecoder(nn.Module):
    """Features from fine to coarse to one field at the finest size, by a U-Net's way up."""

    def __init__(self, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        widths = (16, 24, 32, 48)[: len(channels) - 1]
        inputs = channels[-1]
        self.stages = nn.ModuleList()
        for skip, width in zip(channels[-2::-1], widths[::-1], strict=True):
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(inputs + skip, width, 3, 1, 1),
                    nn.ELU(inplace=True),
                    nn.Conv2d(width, width, 3, 1, 1),
                    nn.ELU(inplace=True),
                )
            )
            inputs = width
        self.head = nn.Conv2d(inputs, outputs, 3, 1, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for stage, skip in zip(self.stages, features[-2::-1], strict=True):
            enlarged = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = stage(torch.cat([enlarged, skip], 1))
        return self.head(x).contiguous()


class PoseEncoder(nn.Module):
    """Two stacked frames (B, 6, H, W) to one feature map."""

    def __init__(self) -> None:
        super().__init__()
        stem = convolution(6, POSE_CHANNELS[0], stride=2, kernel=5)
        pairs = zip(itertools.pairwise(POSE_CHANNELS), (2, 2, 2, 1), strict=True)
        self.layers = nn.Sequential(stem, *(convolution(*pair, stride=s) for pair, s in pairs))

    def forward(self, frames: Tensor) -> list[Tensor]:
        return [self.layers(normalise(frames).contiguous(memory_format=torch.channels_last))]


class PoseDecoder(nn.Module):
    """Axis-angle (B, 3) and translation (B, 3), small at the start, from a feature map."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(inputs, 6, 1)
        # Starting close to standing still, the warped neighbours are no worse than the unwarped ones;
        # otherwise auto-masking hides most pixels and depth can run away before the pose is found.
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.mul_(0.01)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        pose = 0.01 * reduce(self.head(features[-1]), "b pose h w -> b pose", "mean")
        return pose[:, :3], pose[:, 3:]


class DisparityDecoder(nn.Module):
    """Features to one disparity (B, 1, H / 2, W / 2) in (0, 1)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.field = FieldDecoder(channels, 1)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.field(features).float().sigmoid()]
