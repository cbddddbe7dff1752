"""ResNet-18 as the encoder of one or several stacked frames (He et al. 2016)."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn
from torchvision.models import resnet18


def normalise(images: Tensor) -> Tensor:
    """Images in [0, 1] with roughly zero mean and unit variance, as all encoders here see them."""
    return (images - 0.45) / 0.225


def stacked(weight: Tensor, frames: int) -> Tensor:
    """A first layer's weight (O, 3, k, k) for stacked frames: the same for each, in sum as before."""
    return repeat(weight, "o rgb h w -> o (frame rgb) h w", frame=frames) / frames


class ResNetEncoder(nn.Module):
    """Features of `frames` RGB frames, stacked along the channels, at 1/2, 1/4, … 1/32 of their size."""

    channels = (64, 64, 128, 256, 512)

    def __init__(self, frames: int = 1) -> None:
        super().__init__()
        # The classifier stays because official checkpoints contain it; it is never run.
        self.encoder = resnet18(weights=None)
        self.encoder.fc.requires_grad_(False)
        if frames > 1:
            first = self.encoder.conv1
            self.encoder.conv1 = nn.Conv2d(3 * frames, 64, 7, 2, 3, bias=False)
            with torch.no_grad():
                self.encoder.conv1.weight.copy_(stacked(first.weight, frames))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Frames (B, 3 x frames, H, W) in [0, 1] to five feature maps, finest first."""
        net = self.encoder
        features = [net.relu(net.bn1(net.conv1(normalise(images))))]
        x = net.maxpool(features[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            features.append(x)
        return features
