"""The detector's architecture as data: the published Mask R-CNN and the small one for the street world."""

from __future__ import annotations

from dataclasses import dataclass

from moduv.engine.config import load_preset
from moduv.engine.errors import InputError

LARGEST = 1 << 13
"""Of the numbers in an architecture: no network here needs more."""


@dataclass(frozen=True)
class DetectorConfig:
    """A Mask R-CNN of two classes, background and object. The defaults are the published values.

    Sizes and anchors are in pixels of the network's input, which is the image resized so that its
    short side is `min_size` unless its long side would exceed `max_size`.
    """

    backbone: str = "resnet50"
    """`resnet50` (frozen batch norm, for self-supervised weights) or `street` (trained from scratch)."""
    trainable_layers: int = 3
    """Residual stages of the ResNet-50 that are trained; the street backbone is always trained."""
    widths: tuple[int, ...] = ()
    """Channels of the street backbone's stem and of its stages at strides 4, 8, 16, …"""
    fpn_channels: int = 256
    min_size: int = 800
    max_size: int = 1333
    size_divisible: int = 32
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """One size a pyramid level; the last level is a subsampling of the one before."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_samples: int = 256
    rpn_match: float = 0.7
    """IoU from which an anchor counts as an object's."""
    proposals_train: int = 2000
    proposals_test: int = 1000
    roi_scale: int = 224
    """Boxes of this size are read from the level of stride 16, of half the size from stride 8, …"""
    box_samples: int = 512
    box_positive: float = 0.25
    """Largest share of objects among a frame's box samples."""
    box_resolution: int = 7
    box_hidden: int = 1024
    mask_resolution: int = 14
    """Side of the mask head's input; its output has twice that."""
    mask_layers: tuple[int, ...] = (256, 256, 256, 256)
    score_threshold: float = 0.05
    roi_samples: int = 2
    """Points read per bin and axis of a region; with 1, pixel centres lie at half-integer coordinates,
    otherwise at whole ones, as published."""
    max_detections: int = 100

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not 0 <= number <= LARGEST:
                    raise InputError(f"{name} is {number}; choose a number from 0 to {LARGEST}.")


PAPER = DetectorConfig()


def detector_config(preset: str) -> DetectorConfig:
    """The architecture of a preset, its section `detector`. Raises InputError for an unknown name."""
    return load_preset(DetectorConfig, preset, "detector")
