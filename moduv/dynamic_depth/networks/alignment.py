"""Depth-scale alignment: predicts an object's scale from its appearance and the road (Nguyen et al. 2024, section 3.3)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

CHANNELS = 5
"""Red, green, blue, depth of road and object, depth of the object."""


class DepthScaleAlignment(nn.Module):
    """ResNet-18 with group normalisation and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        net = resnet18(weights=None, norm_layer=partial(nn.GroupNorm, 1))
        net.conv1 = nn.Conv2d(CHANNELS, 64, 7, 2, 3, bias=False)
        self.all_feature_extractor = nn.Sequential(*list(net.children())[:-1])
        self.fc = nn.Sequential(
            *(nn.Linear(512, 256), nn.ReLU()),
            *(nn.Linear(256, 128), nn.ReLU()),
            nn.Linear(128, 1),
        )

    def forward(
        self, images: Tensor, object_mask: Tensor, road_depth: Tensor, object_depth: Tensor
    ) -> Tensor:
        """The factor (B, 1) of an object's depth; it may be negative.

        Args:
            images: (B, 3, H, W) in [0, 1].
            object_mask: (B, 1, H, W), 1 on the object.
            road_depth: (B, 1, H, W), depth of the scene on the road, 0 elsewhere.
            object_depth: (B, 1, H, W), depth on the object divided by its mean, 0 elsewhere.
        """
        combined = (1 - object_mask) * road_depth + object_mask * object_depth
        features = self.all_feature_extractor(torch.cat([images, combined, object_depth], 1))
        return self.fc(features.flatten(1))
