"""Masks inside their bounding rectangles, from the label file to the loss, never at the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from moduv.instances.crops import Crop


@dataclass(frozen=True)
class CropMasks:
    """The masks of one training sample, for the detector: `masks` of its target.

    A frame of 1280 x 1920 with 20 objects takes a megabyte; full-size masks take 49, as floats 197.
    Torchvision resizes full-size masks to the network's input and reads them with RoIAlign;
    `resized` and `targets` give the same numbers from the crops.
    """

    pixels: Tensor
    """(sum of h w,) uint8, 0 or 1: the crops one after the other, each row by row."""
    places: Tensor
    """(N, 4) int64 XYXY: the crops' rectangles, inside the image. Always on the CPU."""
    size: tuple[int, int]
    """Height and width of the image."""

    @classmethod
    def pack(cls, crops: Sequence[Crop], size: tuple[int, int]) -> CropMasks:
        """Join the crops of an image of `size` (H, W)."""
        flat = [np.zeros(0, np.uint8), *(crop.pixels.reshape(-1).view(np.uint8) for crop in crops)]
        places = [
            (columns.start, rows.start, columns.stop, rows.stop)
            for rows, columns in (crop.inside for crop in crops)
        ]
        return cls(
            torch.from_numpy(np.concatenate(flat)),
            torch.tensor(places, dtype=torch.int64).reshape(-1, 4),
            size,
        )

    def __len__(self) -> int:
        return len(self.places)

    def to(self, device: torch.device, non_blocking: bool = False) -> CropMasks:
        """The same masks with their pixels on a device."""
        return CropMasks(self.pixels.to(device, non_blocking=non_blocking), self.places, self.size)

    def pin_memory(self) -> CropMasks:
        """Called by `DataLoader`, so that the pixels reach a GPU while it computes."""
        return CropMasks(self.pixels.pin_memory(), self.places, self.size)

    def crops(self) -> list[Tensor]:
        """The crops, (h, w) each; views."""
        sides = self.places[:, 2:] - self.places[:, :2]
        parts = self.pixels.split(sides.prod(1).tolist())
        return [
            part.view(height, width)
            for part, (width, height) in zip(parts, sides.tolist(), strict=True)
        ]

    def dense(self) -> Tensor:
        """The masks (N, H, W) uint8, for drawing and tests."""
        masks = self.pixels.new_zeros((len(self), *self.size))
        for mask, crop, (left, top, right, bottom) in zip(
            masks, self.crops(), self.places.tolist(), strict=True
        ):
            mask[top:bottom, left:right] = crop
        return masks

    def resized(self, height: int, width: int) -> CropMasks:
        """The masks at another image size, each pixel as torchvision resizes full-size masks."""
        rows, columns = _nearest(self.size[0], height), _nearest(self.size[1], width)
        x, y = self.places[:, 0::2].contiguous(), self.places[:, 1::2].contiguous()
        places = torch.stack([torch.searchsorted(columns, x), torch.searchsorted(rows, y)], 2)
        places = places.reshape(-1, 4)  # left, top, right, bottom
        device = self.pixels.device
        rows, columns = (line.to(device, non_blocking=True) for line in (rows, columns))
        parts = [
            crop[rows[y0:y1] - corner_y][:, columns[x0:x1] - corner_x].reshape(-1)
            for crop, (corner_x, corner_y, _, _), (x0, y0, x1, y1) in zip(
                self.crops(), self.places.tolist(), places.tolist(), strict=True
            )
        ]
        return CropMasks(torch.cat([self.pixels[:0], *parts]), places, (height, width))

    def targets(self, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
        """What a mask head should say of boxes (K, 4) XYXY: (K, side, side) in [0, 1].

        RoIAlign reads the mask that a box is `matched` (K,) int64 with.
        """
        order = matched.argsort(stable=True)
        # A GPU would wait twice to count: for the largest number and for the counts.
        counts = torch.bincount(matched.cpu(), minlength=len(self)).tolist()
        result = boxes.new_zeros((len(boxes), side, side))
        parts = [
            _read(crop, place, self.size, group, side)
            for crop, place, group in zip(
                self.crops(), self.places.tolist(), boxes[order].split(counts), strict=True
            )
            if len(group)
        ]
        if parts:
            result[order] = torch.cat(parts)
        return result


def _nearest(before: int, after: int) -> Tensor:
    """Which of `before` pixels each of `after` is read from, by the resize's own arithmetic."""
    positions = torch.arange(before, dtype=torch.float32)[None, None]
    return functional.interpolate(positions, size=after)[0, 0].long()


def _read(
    crop: Tensor, place: list[int], size: tuple[int, int], boxes: Tensor, side: int
) -> Tensor:
    """RoIAlign of one mask at boxes (K, 4), as of the full-size mask: (K, side, side)."""
    left, top, right, bottom = place
    # RoIAlign repeats the pixels at the border of its map and reads zeros beyond. A margin of zeros
    # stands for the rest of the image; where the crop ends with the image, the image's border is kept.
    margin = [int(left > 0), int(right < size[1]), int(top > 0), int(bottom < size[0])]
    padded = functional.pad(crop.to(boxes.dtype), margin)
    x, y = left - margin[0], top - margin[2]
    x0, y0, x1, y1 = boxes.unbind(1)
    moved = torch.stack([x0 - x, y0 - y, x1 - x, y1 - y], 1)
    return roi_align(padded[None, None], [moved], side)[:, 0]
