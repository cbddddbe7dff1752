"""Training samples: frames of a clip in two views, as a function of (index, sample seed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from moduv.correspondence.augmentation import Similarity, ViewConfig, main_view
from moduv.correspondence.videos import Video
from moduv.engine.errors import InputError
from moduv.frames.images import read_image

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class ClipConfig:
    """Which frames of a video make up a sample."""

    frames: int = 5
    """Frames of a clip."""
    gap: int = 2
    """Distance between the frames of a clip, where the video is long enough."""
    in_order: bool = False
    """Take frames in order and repeat them in short videos, as for Kinetics; otherwise take them in random order, and leave
    out short videos."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """The two views of a clip."""

    def __post_init__(self) -> None:
        if self.frames < 2 or self.gap < 1:
            raise InputError(
                f"clips: frames is {self.frames} and gap {self.gap}; use 2 frames or more and a gap of 1 or more."
            )

    @property
    def shortest(self) -> int:
        """Frames of the shortest video that can be used."""
        return 1 if self.in_order else self.frames

    def offsets(self, length: int) -> tuple[np.ndarray, int]:
        """Positions of the frames relative to the first, and the last possible position of the first.

        Args:
            length: frames of the video, at least `frames` unless they are taken in order.
        """
        window, steps = min(self.gap * self.frames, length), np.arange(self.frames)
        if self.in_order:
            return steps * window // self.frames, length - window
        offsets = steps * (window // self.frames)
        return offsets, length - 1 - int(offsets[-1])

    def draw(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Positions (frames,) of a random clip."""
        offsets, last = self.offsets(length)
        positions = rng.integers(last + 1) + offsets
        return positions if self.in_order else rng.permutation(positions)


class Clips:
    """A clip of every video, in two views; images are decoded at the smallest sufficient size."""

    def __init__(self, videos: Sequence[Video], config: ClipConfig) -> None:
        self.videos, self.config = videos, config

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        """Views, their similarity and the anchors' offsets, for (index, sample seed).

        Returns:
            `main` and `second` (T, 3, crop, crop) uint8; `affine` (2, 3); `draws` (4,) in [0, 1).

        Raises:
            InputError: for a frame that is missing or damaged, or of another size than its clip.
        """
        index, seed = item
        rng, views = np.random.default_rng(seed), self.config.views
        video = self.videos[index]
        paths = [video.path(position) for position in self.config.draw(len(video), rng)]
        shortest = max(views.smallest)
        frames = [read_image(path, shortest=shortest) for path in paths]
        for path, frame in zip(paths, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise InputError(
                    f"{path}: has {frame.shape[1]} x {frame.shape[0]} pixels and others of its video have not; "
                    "make them of one size, or separate videos."
                )
        main = main_view(frames, views, rng)
        similarity = Similarity.draw(views.crop, views.crop, views, rng)
        second = np.stack([similarity.apply(frame) for frame in main])
        return {
            "main": _channels_first(main),
            "second": _channels_first(second),
            "affine": torch.from_numpy(similarity.matrix(views.crop, views.crop)),
            "draws": torch.from_numpy(rng.random(4, np.float32)),
        }

    @staticmethod
    def collate(samples: list[Batch]) -> Batch:
        """Stack samples along a new first axis."""
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def _channels_first(frames: np.ndarray) -> Tensor:
    """(T, H, W, 3) as (T, 3, H, W), in the same memory."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
