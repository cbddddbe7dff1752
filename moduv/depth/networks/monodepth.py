"""The depth decoder of Monodepth2 (Godard et al. 2019, section 4 and its supplement).

Reflection-padded 3 x 3 convolutions with ELU on the way up, nearest upsampling, skip connections, and a
sigmoid disparity at each of the four finest scales.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (16, 32, 64, 128, 256)
SCALES = (0, 1, 2, 3)


class ReflectedConv(nn.Module):
    """3 x 3 convolution over an image reflected at its border."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ConvELU(nn.Module):
    """Reflected 3 x 3 convolution and ELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ReflectedConv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.conv(x))


class MonodepthDecoder(nn.Module):
    """Disparity at scales 0 to 3 from the five features of a ResNet."""

    def __init__(self, encoder_channels: tuple[int, ...]) -> None:
        super().__init__()
        inputs = encoder_channels[-1]
        for level in reversed(range(5)):
            width = CHANNELS[level]
            skip = encoder_channels[level - 1] if level > 0 else 0
            self.add_module(f"upconv_{level}_0", ConvELU(inputs, width))
            self.add_module(f"upconv_{level}_1", ConvELU(width + skip, width))
            inputs = width
        for scale in SCALES:
            self.add_module(f"dispconv_{scale}", ReflectedConv(CHANNELS[scale], 1))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Five features, finest first, to disparities (B, 1, H / 2^s, W / 2^s) in (0, 1), scale 0 first."""
        x = features[-1]
        disparities = []
        for level in reversed(range(5)):
            x = self.get_submodule(f"upconv_{level}_0")(x)
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            if level > 0:
                x = torch.cat([x, features[level - 1]], 1)
            x = self.get_submodule(f"upconv_{level}_1")(x)
            if level in SCALES:
                disparities.append(self.get_submodule(f"dispconv_{level}")(x).sigmoid())
        return disparities[::-1]
