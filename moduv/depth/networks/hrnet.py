"""HRNet-18 as an encoder: four resolutions in parallel that exchange what they see (Wang et al. 2020).

Submodules have the names of the official ImageNet checkpoint, which has a classifier besides.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

WIDTHS = (18, 36, 72, 144)
"""Channels at 1/4, 1/8, 1/16 and 1/32 of the image's size."""
MODULES = (1, 4, 3)
"""Exchanges in the stages of two, three and four resolutions."""
STEM = 64


def _strided(inputs: int, outputs: int, *, relu: bool = True, stride: int = 2) -> nn.Sequential:
    """3 x 3 convolution, batch normalisation and, mostly, ReLU."""
    layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def _narrowed(inputs: int, outputs: int) -> nn.Sequential:
    """1 x 1 convolution and batch normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class Exchange(nn.Module):
    """Four residual blocks a resolution, then every resolution receives the sum of all."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(4))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of all resolutions, finest first, to as many of the same sizes."""
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [
            F.relu(_sum_of(paths.children(), features, like))
            for paths, like in zip(self.fuse_layers.children(), features, strict=True)
        ]


def _sum_of(paths: Iterable[nn.Module], features: list[Tensor], like: Tensor) -> Tensor:
    """What all resolutions send to one, at its size; what is enlarged goes corner on corner."""
    total = torch.zeros_like(like)
    for path, x in zip(paths, features, strict=True):
        sent = path(x)
        if sent.shape != like.shape:
            sent = F.interpolate(sent, like.shape[-2:], mode="bilinear", align_corners=True)
        total = total + sent
    return total


def _path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
    """How features of one resolution get the channels, and where it is coarser the size, of another."""
    if source == target:
        return nn.Identity()
    if source > target:
        return _narrowed(widths[source], widths[target])
    steps = [_strided(widths[source], widths[source]) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, _strided(widths[source], widths[target], relu=False))


class HRNet(nn.Module):
    """Everything that HRNet-18 sees on its way, for decoders with dense skips."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, STEM, 3, 2, 1, bias=False), nn.BatchNorm2d(STEM)
        self.conv2, self.bn2 = nn.Conv2d(STEM, STEM, 3, 2, 1, bias=False), nn.BatchNorm2d(STEM)
        wide = STEM * Bottleneck.expansion
        first = Bottleneck(STEM, STEM, downsample=_narrowed(STEM, wide))
        self.layer1 = nn.Sequential(first, *(Bottleneck(wide, STEM) for _ in range(3)))
        self.transition1 = nn.ModuleList(
            [_strided(wide, WIDTHS[0], stride=1), nn.Sequential(_strided(wide, WIDTHS[1]))]
        )
        self.stage2 = _stage(2)
        self.transition2 = _deeper(2)
        self.stage3 = _stage(3)
        self.transition3 = _deeper(3)
        self.stage4 = _stage(4)

    def forward(self, images: Tensor) -> list[list[Tensor]]:
        """Images (B, 3, H, W) in [0, 1], as they are, to lists of features at 1/2, 1/4, … 1/32 of their size.

        64 channels at 1/2; 64, 18, 18, 18 at 1/4; 36 thrice, 72 twice and 144 at the coarser ones.
        """
        half = F.relu(self.bn1(self.conv1(images)))
        quarter = F.relu(self.bn2(self.conv2(half)))
        x = self.layer1(quarter)
        two = _run(self.stage2, [layer(x) for layer in self.transition1])
        three = _run(self.stage3, [*two, self.transition2[-1](two[-1])])
        four = _run(self.stage4, [*three, self.transition3[-1](three[-1])])
        stages = (two, three, four)
        by_size = [[stage[level] for stage in stages if level < len(stage)] for level in range(4)]
        return [[half], [quarter, *by_size[0]], *by_size[1:]]


def _stage(resolutions: int) -> nn.Sequential:
    return nn.Sequential(*(Exchange(WIDTHS[:resolutions]) for _ in range(MODULES[resolutions - 2])))


def _deeper(resolutions: int) -> nn.ModuleList:
    """From the coarsest of some resolutions to the next; the others go on as they are."""
    new = nn.Sequential(_strided(WIDTHS[resolutions - 1], WIDTHS[resolutions]))
    return nn.ModuleList([*(nn.Identity() for _ in range(resolutions)), new])


def _run(stage: nn.Sequential, features: list[Tensor]) -> list[Tensor]:
    for module in stage:
        features = module(features)
    return features
