"""From a labelled frame to a training sample: flip, scale jitter, and what improves on them.

Every geometric change is one `Placement` of the frame on a canvas. Boxes follow it exactly; masks are
read through it pixel by pixel from the size they are stored at, so nothing is resampled twice. They stay
crops; only pasting needs one map of the canvas's size. Images stay 8 bit, for the network to scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from moduv.detector.crops import CropMasks
from moduv.engine.errors import InputError
from moduv.frames.images import resize_image
from moduv.instances.crops import Crop

GREY = 128
"""The published canvas is 0.5, which 8 bits meet to within 0.002."""
VISIBLE = 0.3
"""Share of an object that must stay visible below pasted ones for it to remain a target."""

Target = dict[str, Any]
"""What the detector is trained towards: `boxes`, `labels`, `masks`."""
Sample = tuple[Tensor, Target]


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of a training frame. The defaults are the published ones of the final round."""

    flip: float = 0.5
    """Probability of mirroring the frame."""
    jitter: float = 1.0
    """Probability of scale jitter; the shrunken frame lies at a random place on a grey canvas."""
    jitter_min: float = 0.5
    jitter_max: float = 1.0
    min_side: float = 1.0
    """Objects whose box's short side is not longer than this, in canvas pixels, are dropped."""
    paste: float = 0.0
    """Probability of pasting some of another frame's objects over this one."""

    def __post_init__(self) -> None:
        if not 0 < self.jitter_min <= self.jitter_max:
            raise InputError(
                f"augmentation: jitter_min {self.jitter_min} and jitter_max {self.jitter_max} are no "
                "range of positive factors; give 0 < jitter_min <= jitter_max."
            )


@dataclass(frozen=True)
class LabelledFrame:
    """A frame with its objects.

    `image` (H, W, 3) uint8; `boxes` (N, 4) float32 XYXY in pixels of the image; `masks` N crops at
    `mask_size` (h, w), which may be smaller than the image.
    """

    image: np.ndarray
    boxes: np.ndarray
    masks: list[Crop]
    mask_size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.boxes.nbytes + sum(m.pixels.nbytes for m in self.masks)


@dataclass(frozen=True)
class Placement:
    """Where a frame lands on a canvas: its size there, its top left corner, mirrored or not."""

    height: int
    width: int
    top: int = 0
    left: int = 0
    flip: bool = False

    def boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes (N, 4) of an image of `size` (H, W), on the canvas; mirrored as x -> W - x."""
        scale = np.array([self.width / size[1], self.height / size[0]] * 2)
        left, top, right, bottom = (boxes.astype(np.float64) * scale).T
        if self.flip:
            left, right = self.width - right, self.width - left
        moved = [left + self.left, top + self.top, right + self.left, bottom + self.top]
        return np.stack(moved, axis=1).astype(np.float32)

    def visible(self, canvas: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the canvas that the frame covers."""
        return (
            slice(max(0, self.top), min(canvas[0], self.top + self.height)),
            slice(max(0, self.left), min(canvas[1], self.left + self.width)),
        )

    def sources(self, canvas: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """For the canvas rows and columns covered: the nearest row and column of a map of `size`."""
        rows, columns = self.visible(canvas)
        y = (np.arange(rows.start, rows.stop) - self.top + 0.5) * (size[0] / self.height)
        x = (np.arange(columns.start, columns.stop) - self.left + 0.5) * (size[1] / self.width)
        x = size[1] - x if self.flip else x
        return (
            np.clip(np.floor(y).astype(np.intp), 0, size[0] - 1),
            np.clip(np.floor(x).astype(np.intp), 0, size[1] - 1),
        )


@dataclass
class Canvas:
    """A sample being composed: `image` (H, W, 3) uint8, N `masks`, `boxes` (N, 4) float32."""

    image: np.ndarray
    masks: list[Crop]
    boxes: np.ndarray

    @classmethod
    def grey(cls, height: int, width: int) -> Canvas:
        return cls(np.full((height, width, 3), GREY, np.uint8), [], np.zeros((0, 4), np.float32))

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def add(self, frame: LabelledFrame, placement: Placement) -> None:
        """Lay a whole frame with its objects on the canvas."""
        rows, columns = placement.visible(self.size)
        self.image[rows, columns] = _placed_image(frame.image, placement, rows, columns)
        self._append(*place_objects(frame, placement, self.size))

    def paste(self, frame: LabelledFrame, placement: Placement, chosen: np.ndarray) -> None:
        """Lay `chosen` (indices) objects of a frame over the canvas; what they hide is cut away."""
        rows, columns = placement.visible(self.size)
        masks, boxes = place_objects(frame, placement, self.size)
        masks = [masks[index] for index in chosen]
        cover = np.zeros(self.size, bool)
        for mask in masks:
            cover[mask.inside] |= mask.pixels
        pixels = _placed_image(frame.image, placement, rows, columns)
        self.image[rows, columns][cover[rows, columns]] = pixels[cover[rows, columns]]
        self._hide(cover)
        self._append(masks, boxes[chosen])

    def _hide(self, cover: np.ndarray) -> None:
        """Cut what `cover` (H, W) hides from the objects; drop those of which too little is left."""
        kept = []
        for index, mask in enumerate(self.masks):
            left = replace(mask, pixels=mask.pixels & ~cover[mask.inside])
            before, after = int(mask.pixels.sum()), int(left.pixels.sum())
            if 0 < after < before:
                self.boxes[index] = left.box()
            if after >= VISIBLE * before:
                self.masks[index] = left
                kept.append(index)
        self.masks, self.boxes = [self.masks[index] for index in kept], self.boxes[kept]

    def _append(self, masks: list[Crop], boxes: np.ndarray) -> None:
        self.masks = self.masks + masks
        self.boxes = np.concatenate([self.boxes, boxes])


def place_objects(
    frame: LabelledFrame, placement: Placement, canvas: tuple[int, int]
) -> tuple[list[Crop], np.ndarray]:
    """N masks and boxes (N, 4) of a frame's objects on a canvas; masks may be empty.

    Boxes are clipped to the canvas; where the border cuts an object, its box is fitted to the mask.
    """
    rows, columns = placement.sources(canvas, frame.mask_size)
    corner = placement.visible(canvas)
    top, left = corner[0].start, corner[1].start
    masks = [crop.read(rows, columns, top, left) for crop in frame.masks]
    boxes = placement.boxes(frame.boxes, (frame.image.shape[0], frame.image.shape[1]))
    clipped = np.clip(boxes, 0, np.array([canvas[1], canvas[0]] * 2, np.float32))
    for index in np.flatnonzero((np.abs(clipped - boxes) > 1).any(axis=1)):
        if masks[index].pixels.any():
            clipped[index] = masks[index].box()
    return masks, clipped


def augment(
    frame: LabelledFrame,
    config: AugmentationConfig,
    rng: np.random.Generator,
    other: Callable[[np.random.Generator], LabelledFrame],
) -> Sample:
    """Turn a frame into a sample for the detector; `other` draws a frame whose objects are pasted.

    Returns:
        The image (3, H, W) uint8 and the detector's target: `boxes` (N, 4) float32, `labels` (N,)
        int64, all 1 and `masks` as `CropMasks`; N may be 0.
    """
    height, width = frame.image.shape[:2]
    canvas = Canvas.grey(height, width)
    factor = 1.0
    if rng.random() < config.jitter:
        factor = float(rng.uniform(config.jitter_min, config.jitter_max))
    canvas.add(frame, draw_placement(height, width, factor, config.flip, rng))
    if config.paste and rng.random() < config.paste:
        giver = other(rng)
        chosen = np.flatnonzero(rng.random(len(giver.masks)) < 0.5)
        scale = float(rng.uniform(config.jitter_min, config.jitter_max))
        canvas.paste(giver, draw_placement(height, width, scale, config.flip, rng), chosen)
    image = torch.from_numpy(canvas.image).permute(2, 0, 1)
    return image, _target(canvas, config.min_side)


def draw_placement(
    height: int, width: int, factor: float, flip: float, rng: np.random.Generator
) -> Placement:
    """Scale a frame by `factor` and put it at a random place on a canvas of its own size."""
    mirrored = bool(rng.random() < flip)
    h, w = max(1, round(height * factor)), max(1, round(width * factor))
    top = int(rng.integers(min(0, height - h), max(0, height - h) + 1))
    left = int(rng.integers(min(0, width - w), max(0, width - w) + 1))
    return Placement(h, w, top, left, mirrored)


def _placed_image(
    image: np.ndarray, placement: Placement, rows: slice, columns: slice
) -> np.ndarray:
    """The pixels (h, w, 3) uint8 that a placed image shows in the canvas's rows and columns.

    Shrinking averages; the published code does or does not, depending on its torchvision.
    """
    resized = resize_image(image, placement.height, placement.width)
    resized = cv2.flip(resized, 1) if placement.flip else resized
    y, x = rows.start - placement.top, columns.start - placement.left
    return resized[y : y + rows.stop - rows.start, x : x + columns.stop - columns.start]


def _target(canvas: Canvas, min_side: float) -> Target:
    sides = canvas.boxes[:, 2:] - canvas.boxes[:, :2]
    seen = np.array([mask.pixels.any() for mask in canvas.masks], bool)
    kept = np.flatnonzero((sides.min(axis=1, initial=np.inf) > min_side) & seen)
    return {
        "boxes": torch.from_numpy(canvas.boxes[kept]),
        "labels": torch.ones(len(kept), dtype=torch.int64),
        "masks": CropMasks.pack([canvas.masks[index] for index in kept], canvas.size),
    }
