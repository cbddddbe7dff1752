"""Frames with pseudo-labels for the training loop: masks decoded inside their rectangles only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from moduv.detector.transforms import AugmentationConfig, LabelledFrame, Sample, Target, augment
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.instances.crops import Crop
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels


class LabelledFrames:
    """Training samples of the detector, drawn from (index, sample seed).

    A sample has its frame's size. Without `label_root` the frames hold no objects; once `cache_bytes` of
    decoded frames are kept, the rest is read every time. A missing label file, and masks of another aspect ratio than
    the image, raise InputError when the sample is asked for.
    """

    def __init__(
        self,
        frames_root: str | Path,
        frames: Sequence[FrameRef],
        label_root: str | Path | None,
        augmentation: AugmentationConfig,
        *,
        cache_bytes: int = 1 << 29,
    ) -> None:
        self.frames_root = Path(frames_root)
        self.frames = list(frames)
        self.label_root = None if label_root is None else Path(label_root)
        self.augmentation = augmentation
        self._free = cache_bytes
        self._cache: dict[int, LabelledFrame] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Image (3, H, W) uint8 and the detector's target, with its `seed`, for (index, sample seed)."""
        index, seed = item
        rng = np.random.default_rng(seed)
        image, target = augment(self.frame(index), self.augmentation, rng, self._other)
        return image, {**target, "seed": seed}

    @staticmethod
    def collate(samples: list[Sample]) -> tuple[list[Tensor], list[Target]]:
        """A batch as torchvision's detectors take it: lists of images and of targets."""
        images, targets = zip(*samples, strict=True)
        return list(images), list(targets)

    def frame(self, index: int) -> LabelledFrame:
        """The frame with its labels as they are on disk, boxes at the image's size."""
        if index in self._cache:
            return self._cache[index]
        frame = self._read(self.frames[index])
        if frame.nbytes <= self._free:
            self._free -= frame.nbytes
            self._cache[index] = frame
        return frame

    def _other(self, rng: np.random.Generator) -> LabelledFrame:
        return self.frame(int(rng.integers(len(self.frames))))

    def _read(self, ref: FrameRef) -> LabelledFrame:
        path = ref.image_path(self.frames_root)
        image = read_image(path)
        if self.label_root is None:
            return LabelledFrame(image, np.zeros((0, 4), np.float32), [], image.shape[:2])
        instances = read_labels(self.label_root, ref)
        return labelled_frame(image, instances, str(ref.file(self.label_root, ".json")))


def labelled_frame(image: np.ndarray, instances: Instances, source: str) -> LabelledFrame:
    """Join an image (H, W, 3) and its labels; boxes are scaled to the image, masks stay as they are.

    Raises InputError naming `source` when the aspect ratios differ.
    """
    instances.check_aspect(image.shape[:2], source)
    boxes = instances.boxes_at(*image.shape[:2])
    masks = [Crop.decode(mask) for mask in instances.masks]
    return LabelledFrame(image, boxes, masks, instances.size or image.shape[:2])
