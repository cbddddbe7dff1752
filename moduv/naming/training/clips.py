"""Clips for training: equidistant frames of a segment, resized to multiples of the patch size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.frames.clip import FrameRef
from moduv.frames.images import fitted_size, read_image
from moduv.naming.videomae import PATCH

CROPS = (1.0, 0.875, 0.75, 0.66)
"""Sides of the crops of pre-training, as shares of the shorter side."""


@dataclass(frozen=True)
class ClipConfig:
    """Which frames make up a clip."""

    frames: int
    """Frames of a clip."""
    steps: tuple[int, ...]
    """Possible distances between its frames, with equal probability."""
    size: int = 224
    """Shorter side of the frames in pixels; both sides of a crop."""
    per_sample: int = 1
    """Clips of one video in a sample."""

    def __post_init__(self) -> None:
        if min(self.frames, self.per_sample, *self.steps, 1 if self.steps else 0) < 1:
            raise InputError("a clip has one frame or more, and steps of one or more; correct it.")
        if self.size % PATCH or self.size <= 0:
            raise InputError(f"size is {self.size}; use a multiple of {PATCH}.")


class VideoClips:
    """Clips of the segments of a split, (index, sample seed) to (C, 3, T, H, W) uint8.

    Where a segment is too short for a clip, its last frame is repeated. Missing frames raise InputError when they are read.
    """

    def __init__(
        self, root: Path, refs: Sequence[FrameRef], config: ClipConfig, *, crop: bool = False
    ) -> None:
        self.root, self.config, self.crop = root, config, crop
        segments: dict[str, list[FrameRef]] = defaultdict(list)
        for ref in sorted(refs):
            segments[ref.segment].append(ref)
        self.segments = list(segments.values())

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        """Whole frames in their own aspect ratio, or square crops with `crop`."""
        rng = np.random.default_rng(item[1])
        refs = self.segments[item[0]]
        return torch.stack([self._clip(refs, rng) for _ in range(self.config.per_sample)])

    @staticmethod
    def collate(samples: list[Tensor]) -> list[Tensor]:
        """Keep samples in a list, as videos may be of different sizes."""
        return samples

    def _clip(self, refs: Sequence[FrameRef], rng: np.random.Generator) -> Tensor:
        step = int(rng.choice(self.config.steps))
        chosen = choose_frames(len(refs), self.config.frames, step, rng)
        images = [read_image(refs[n].image_path(self.root)) for n in chosen]
        height, width = images[0].shape[:2]
        if any(image.shape != images[0].shape for image in images):
            raise InputError(
                f"{refs[0].segment}: its frames are of several sizes; prepare the segment again."
            )
        size = self.config.size
        if self.crop:
            rows, columns = crop_places(height, width, rng)
            images = [image[rows, columns] for image in images]
            height = width = size
        else:
            height, width = fitted_size(height, width, size, PATCH)
        resized = [
            cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images
        ]
        return torch.from_numpy(np.stack(resized)).permute(3, 0, 1, 2)


def choose_frames(count: int, frames: int, step: int, rng: np.random.Generator) -> list[int]:
    """Indices of a clip's frames among `count`: at a random place, or from 0 with the last one repeated if it does not fit."""
    start = int(rng.integers(count - frames * step + 1)) if count >= frames * step else 0
    last = start + step * ((count - 1 - start) // step)
    return [min(start + step * n, last) for n in range(frames)]


def crop_places(height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random crop by multi-scale cropping (Wang et al. 2016).

    The sides are of the same or of neighbouring scales, and the place is on a 5 x 5 grid.
    """
    pairs = [(a, b) for a in range(len(CROPS)) for b in range(len(CROPS)) if abs(a - b) < 2]
    rows, columns = pairs[rng.integers(len(pairs))]
    base = min(height, width)
    high, wide = (max(1, int(CROPS[n] * base)) for n in (rows, columns))
    top, left = (int(room * rng.integers(5) / 4) for room in (height - high, width - wide))
    return slice(top, top + high), slice(left, left + wide)
