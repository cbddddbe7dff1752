"""Masks inside their bounding rectangles, never at the image's size.

At 1280 x 1920 a hundred full-size masks take a gigabyte, their rectangles a few megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.instances import rle


@dataclass(frozen=True)
class Crop:
    """A mask inside a rectangle: `pixels` (h, w) with its corner at (top, left); zero elsewhere."""

    top: int
    left: int
    pixels: np.ndarray
    """bool; or probabilities as float32, float64, or uint8 in steps of 1 / 255."""

    @classmethod
    def decode(cls, mask: rle.Rle) -> Crop:
        """Decode a COCO RLE mask inside its bounding rectangle; bool."""
        return cls(*rle.decode_crop(mask))

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the rectangle covers."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def unit(self) -> float:
        """The probability that the number 1 stands for."""
        return 1 / 255 if self.pixels.dtype == np.uint8 else 1.0

    def limit(self, threshold: float) -> Any:
        """The number that a pixel exceeds where its probability is above `threshold`."""
        whole = self.pixels.dtype == np.uint8
        return threshold / self.unit if whole else self.pixels.dtype.type(threshold)

    def encode(self, threshold: float, size: tuple[int, int]) -> rle.Rle:
        """The pixels strictly above a probability as a mask of an image of `size` (H, W)."""
        return rle.encode_crop(self.pixels > self.limit(threshold), self.top, self.left, size)

    def read(self, rows: np.ndarray, columns: np.ndarray, top: int, left: int) -> Crop:
        """The mask on a canvas whose pixel (top + i, left + j) shows its pixel (rows[i], columns[j]).

        Each axis is monotonic, rising or falling.
        """
        height, width = self.pixels.shape
        y = np.flatnonzero((rows >= self.top) & (rows < self.top + height))
        x = np.flatnonzero((columns >= self.left) & (columns < self.left + width))
        if not len(y) or not len(x):
            return Crop(0, 0, np.zeros((0, 0), bool))
        pixels = self.pixels[rows[y, None] - self.top, columns[None, x] - self.left]
        return Crop(top + int(y[0]), left + int(x[0]), pixels)

    def mirrored(self, width: int) -> Crop:
        """The mask in the mirrored image, whose width is given."""
        left = width - self.left - self.pixels.shape[1]
        return Crop(self.top, left, np.ascontiguousarray(self.pixels[:, ::-1]))

    def box(self) -> tuple[int, int, int, int]:
        """The continuous XYXY box around the pixels that are not zero. The mask must have some."""
        left, top, right, bottom = rle.extent(self.pixels)
        return self.left + left, self.top + top, self.left + right, self.top + bottom


def crop_masks(masks: Tensor) -> list[Crop]:
    """Full-size masks (N, H, W) of any type, cut to what is not zero."""
    masks = masks.detach().cpu()
    if masks.dtype not in {torch.float32, torch.float64, torch.uint8}:
        masks = masks.float()
    crops = []
    for mask in masks.numpy():
        left, top, right, bottom = rle.extent(mask)
        crops.append(Crop(top, left, np.ascontiguousarray(mask[top:bottom, left:right])))
    return crops


def check_finite(crops: Sequence[Crop]) -> None:
    """Raise InputError unless all probabilities are finite."""
    if not all(np.isfinite(crop.pixels).all() for crop in crops):
        raise InputError(
            "a detector's masks hold numbers that are not finite; train it again, more gently."
        )


def dense_masks(crops: Sequence[Crop], size: tuple[int, int]) -> Tensor:
    """Full-size masks (N, H, W) of an image of `size` (H, W)."""
    dtype = crops[0].pixels.dtype if crops else np.dtype(np.float32)
    masks = np.zeros((len(crops), *size), dtype)
    for mask, crop in zip(masks, crops, strict=True):
        mask[crop.inside] = crop.pixels
    return torch.from_numpy(masks)
