"""DIFFNet: disparity from all of HRNet's features, weighed by channel attention (Zhou et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moduv.depth.networks.hrnet import STEM, WIDTHS
from moduv.depth.networks.monodepth import ConvELU, ReflectedConv

CHANNELS = (16, 32, 64, 128, 256)
"""Of the decoder at the image's size, 1/2, … 1/16."""
SKIPS = (STEM, STEM + 3 * WIDTHS[0], 3 * WIDTHS[1], 2 * WIDTHS[2])
"""Channels of the features at 1/2, … 1/16."""
REDUCTION = 16


class ChannelAttention(nn.Module):
    """Channels weighed by what their means say (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // REDUCTION, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // REDUCTION, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class AttentionBlock(nn.Module):
    """Coarse features enlarged, joined with those of that size, weighed and mixed."""

    def __init__(self, coarse: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.ca = ChannelAttention(coarse + skip)
        self.conv_se = nn.Conv2d(coarse + skip, outputs, 3, padding=1)

    def forward(self, coarse: Tensor, skips: list[Tensor]) -> Tensor:
        enlarged = F.interpolate(coarse, scale_factor=2, mode="nearest")
        return F.relu(self.conv_se(self.ca(torch.cat([enlarged, *skips], 1))))


class DiffNetDecoder(nn.Module):
    """Disparities at scales 0 to 3 from HRNet's features.

    As in the official checkpoints every layer is there twice, by name and by number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict(
            {
                "up_x9_0": ConvELU(CHANNELS[1], CHANNELS[0]),
                "up_x9_1": ConvELU(CHANNELS[0], CHANNELS[0]),
            }
        )
        coarse = WIDTHS[-1]
        for level in (4, 3, 2, 1):
            # Named by half the channels of HRNet at twice the size.
            name = str(WIDTHS[0] * 2 ** (level - 2)) if level > 1 else "9"
            self.convs[name] = AttentionBlock(coarse, SKIPS[level - 1], CHANNELS[level])
            coarse = CHANNELS[level]
        for scale in range(4):
            self.convs[f"dispConvScale{scale}"] = ReflectedConv(CHANNELS[scale], 1)
        self.decoder = nn.ModuleList(self.convs.values())

    def forward(self, features: list[list[Tensor]]) -> list[Tensor]:
        """Lists of features, finest first, to disparities (B, 1, H / 2^s, W / 2^s) in (0, 1), scale 0 first."""
        first, second, *blocks = self.decoder
        (x,) = features[-1]
        decoded = []
        for block, skips in zip(blocks[:4], features[-2::-1], strict=True):
            x = block(x, skips)
            decoded.append(x)
        full = second(F.interpolate(first(x), scale_factor=2, mode="nearest"))
        finest_first = [full, *decoded[:0:-1]]
        return [head(x).sigmoid() for head, x in zip(blocks[4:], finest_first, strict=True)]
