"""Depth by DIFFNet (Zhou et al. 2021), as in Nguyen et al. 2024, section 3.1."""

from __future__ import annotations

from torch import Tensor, nn

from moduv.depth.networks.diffnet import DiffNetDecoder
from moduv.depth.networks.hrnet import HRNet
from moduv.geometry import disparity_to_depth

MIN_DEPTH, MAX_DEPTH = 0.1, 100.0
"""Depths of disparity 1 and 0."""


class DepthNet(nn.Module):
    """Depth at four scales from one image."""

    def __init__(self) -> None:
        super().__init__()
        self.depth_encoder = HRNet()
        self.depth_decoder = DiffNetDecoder()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] to depths (B, 1, H / 2^s, W / 2^s) from 0.1 to 100, scale 0 first.

        Height and width must be multiples of 32.
        """
        disparities = self.depth_decoder(self.depth_encoder(images))
        return [disparity_to_depth(disparity, MIN_DEPTH, MAX_DEPTH) for disparity in disparities]
