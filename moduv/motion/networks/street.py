"""Small motion networks for the `street` preset, beside its depth and pose networks.

The motion encoder sees the neighbours warped to the centre frame by depth and ego-motion
(`motion_input: warped`), so what still differs moves by itself; it is told so by the absolute
differences and by a local cost volume. The flow is a share of the point's depth (`flow_unit: depth`).
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moduv.depth.networks.resnet import normalise
from moduv.depth.networks.street import FieldDecoder, ResidualBlock, convolution

MOTION_CHANNELS = (24, 32, 48, 64)
EMBEDDING, RADIUS = 16, 3
"""Channels of the matched features, and positions around each that it is matched with."""


def local_cost_volume(centre: Tensor, other: Tensor, radius: int) -> Tensor:
    """Similarity of every position with those around it in another frame, at most `radius` r away.

    Features are (B, C, H, W) of unit length, the result (B, (2r + 1)², H, W), displacements in raster order.
    """
    height, width = centre.shape[-2:]
    padded = F.pad(other, (radius,) * 4)
    places = itertools.product(range(2 * radius + 1), repeat=2)
    shifted = (padded[:, :, dy : dy + height, dx : dx + width] for dy, dx in places)
    return torch.stack([(view * centre).sum(1) for view in shifted], 1)


class MotionEncoder(nn.Module):
    """Previous, centre and next frame (B, 9, H, W) to features at 1/2, 1/4, … 1/16 of their size.

    The cost volume compares the centre with both neighbours at a quarter of their size. A point that
    moves by d towards the next frame came from -d in the previous one, so the volume of the previous
    frame is read backwards and both are shown as their sum and their disagreement.
    """

    def __init__(self) -> None:
        super().__init__()
        full, half, *_ = MOTION_CHANNELS
        self.embed = nn.Sequential(
            convolution(3, EMBEDDING, stride=2), convolution(EMBEDDING, EMBEDDING, stride=2)
        )
        self.stem = convolution(12, full, stride=2, kernel=5)
        self.halve = ResidualBlock(full, half, 2)
        self.mix = convolution(half + 2 * (2 * RADIUS + 1) ** 2, half)
        pairs = itertools.pairwise(MOTION_CHANNELS[1:])
        self.stages = nn.ModuleList(ResidualBlock(*pair, stride=2) for pair in pairs)

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
        forward = local_cost_volume(centre, after, RADIUS)
        backward = local_cost_volume(centre, before, RADIUS).flip(1)
        return forward + backward, (forward - backward).abs()


class MotionDecoder(nn.Module):
    """Features to one motion field (B, C, H / 2, W / 2).

    The frames are aligned by the ego-motion before they are encoded, so it is not needed again.
    """

    def __init__(self, channels: tuple[int, ...], outputs: int, gain: float) -> None:
        super().__init__()
        self.field, self.gain = FieldDecoder(channels, outputs), gain

    def forward(self, features: list[Tensor], frames: Tensor, ego: Tensor) -> list[Tensor]:
        return [self.gain * self.field(features)]
