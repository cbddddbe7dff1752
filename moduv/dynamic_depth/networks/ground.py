"""Ground segmentation from an image and its disparity (Nguyen et al. 2024, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 4
"""Red, green, blue, and disparity over its maximum."""


class GroundNet(nn.Module):
    """Convolutions, two of them with layer norm over the whole image, so that images must be of one size.

    Args:
        height: of the images, pixels.
        width: of the images, pixels.
    """

    def __init__(self, height: int = 192, width: int = 512) -> None:
        super().__init__()
        self.size = (height, width)
        self.input_layer = nn.Conv2d(CHANNELS, 64, 3, padding=1)
        self.conv1 = _normalised(64, (64, height, width))
        self.conv2 = _normalised(64, (128, height, width))
        self.final_layer = nn.Conv2d(128, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images in [0, 1] with their relative disparity (B, 4, H, W) to probabilities of ground (B, 1, H, W)."""
        x = F.relu(self.input_layer(inputs))
        return self.final_layer(F.relu(self.conv2(F.relu(self.conv1(x))))).sigmoid()


def _normalised(inputs: int, shape: tuple[int, int, int]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, shape[0], 3, padding=1), nn.LayerNorm(shape))


def ground_inputs(images: Tensor, disparity: Tensor) -> Tensor:
    """The network's inputs (B, 4, H, W) from images (B, 3, H, W) in [0, 1] and disparities (B, 1, H, W)."""
    return torch.cat([images, disparity / disparity.amax((2, 3), keepdim=True)], 1)
