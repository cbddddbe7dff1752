"""Small networks for the `street` preset: the parts of Dynamo-Depth at the size of a laptop.

They fill the same places as the published networks and are trained from scratch. The motion encoder
sees the neighbours warped to the centre frame by depth and ego-motion (`motion_input: warped`), so what
still differs moves by itself; it is told so by the absolute differences and by a local cost volume.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTH_CHANNELS = (24, 32, 48, 64, 96)
POSE_CHANNELS = (16, 32, 48, 64, 64)
MOTION_CHANNELS = (24, 32, 48, 64)


def normalise(images: Tensor) -> Tensor:
    """Images in [0, 1] with roughly zero mean and unit variance."""
    return (images - 0.45) / 0.225


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

    def __init__(self, channels: tuple[int, ...] = DEPTH_CHANNELS) -> None:
        super().__init__()
        self.channels = channels
        self.stem = convolution(3, channels[0], stride=2, kernel=5)
        self.stages = nn.ModuleList(
            ResidualBlock(inputs, outputs, 2) for inputs, outputs in itertools.pairwise(channels)
        )

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


def local_cost_volume(centre: Tensor, other: Tensor, radius: int) -> Tensor:
    """Similarity of every position with the positions around it in another frame.

    Args:
        centre, other: features (B, C, H, W) of unit length.
        radius: largest displacement r, in positions.

    Returns:
        (B, (2r + 1)², H, W), displacements in raster order.
    """
    height, width = centre.shape[-2:]
    padded = F.pad(other, (radius,) * 4)
    offsets = range(2 * radius + 1)
    return torch.stack(
        [
            (padded[:, :, dy : dy + height, dx : dx + width] * centre).sum(1)
            for dy in offsets
            for dx in offsets
        ],
        1,
    )


class MotionEncoder(nn.Module):
    """Previous, centre and next frame (B, 9, H, W) to features at 1/2, 1/4, … 1/16 of their size.

    The cost volume compares the centre with both neighbours at a quarter of their size. A point that
    moves by d towards the next frame came from -d in the previous one, so the volume of the previous
    frame is read backwards and both are shown as their sum and their disagreement.
    """

    def __init__(
        self, channels: tuple[int, ...] = MOTION_CHANNELS, *, embedding: int = 16, radius: int = 3
    ) -> None:
        super().__init__()
        self.channels, self.radius = channels, radius
        self.embed = nn.Sequential(
            convolution(3, embedding, stride=2), convolution(embedding, embedding, stride=2)
        )
        self.stem = convolution(12, channels[0], stride=2, kernel=5)
        self.halve = ResidualBlock(channels[0], channels[1], 2)
        self.mix = convolution(channels[1] + 2 * (2 * radius + 1) ** 2, channels[1])
        self.stages = nn.ModuleList(
            ResidualBlock(inputs, outputs, 2)
            for inputs, outputs in itertools.pairwise(channels[1:])
        )

    def forward(self, frames: Tensor) -> list[Tensor]:
        frames = normalise(frames).contiguous(memory_format=torch.channels_last)
        before, centre, after = frames.chunk(3, 1)
        differences = [(before - centre).abs(), (after - centre).abs(), after - before]
        full = self.stem(torch.cat([centre, *differences], 1))
        half = self.halve(full)
        half = self.mix(torch.cat([half, *self._matches(before, centre, after)], 1))
        features = [full, half]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features

    def _matches(self, before: Tensor, centre: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        embedded = F.normalize(self.embed(torch.cat([before, centre, after])), dim=1)
        before, centre, after = embedded.chunk(3)
        forward = local_cost_volume(centre, after, self.radius)
        backward = local_cost_volume(centre, before, self.radius).flip(1)
        return forward + backward, (forward - backward).abs()


class PoseEncoder(nn.Module):
    """Two stacked frames (B, 6, H, W) to one feature map."""

    def __init__(self, channels: tuple[int, ...] = POSE_CHANNELS) -> None:
        super().__init__()
        stem = convolution(6, channels[0], stride=2, kernel=5)
        strides = (2, 2, 2, 1)
        blocks = zip(channels, channels[1:], strides, strict=False)
        self.layers = nn.Sequential(
            stem, *(convolution(inputs, outputs, stride=s) for inputs, outputs, s in blocks)
        )

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
        pose = 0.01 * self.head(features[-1]).mean((2, 3))
        return pose[:, :3], pose[:, 3:]


class DisparityDecoder(nn.Module):
    """Features to one disparity (B, 1, H / 2, W / 2) in (0, 1)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.field = FieldDecoder(channels, 1)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.field(features).float().sigmoid()]


class MotionDecoder(nn.Module):
    """Features to one motion field (B, C, H / 2, W / 2).

    The frames are aligned by the ego-motion before they are encoded, so it is not needed again.
    """

    def __init__(self, channels: tuple[int, ...], outputs: int, gain: float) -> None:
        super().__init__()
        self.field, self.gain = FieldDecoder(channels, outputs), gain

    def forward(self, features: list[Tensor], frames: Tensor, ego: Tensor) -> list[Tensor]:
        return [self.gain * self.field(features)]


def build_street() -> dict[str, nn.Module]:
    """The seven modules; the flow's output is a share of the point's depth (`flow_unit: depth`)."""
    return {
        "depth_enc": DepthEncoder(),
        "depth_dec": DisparityDecoder(DEPTH_CHANNELS),
        "pose_enc": PoseEncoder(),
        "pose_dec": PoseDecoder(POSE_CHANNELS[-1]),
        "motion_enc": MotionEncoder(),
        "motion_dec": MotionDecoder(MOTION_CHANNELS, 3, gain=0.1),
        "motion_mask": MotionDecoder(MOTION_CHANNELS, 1, gain=1.0),
    }
