"""Inputs of an encoder: crops around an object, in the best views of its track."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from moduv.instances import rle
from moduv.instances.rle import Rle

MARGIN = 1.2
"""Side of a crop, relative to the longer side of the object's box."""
DIMMING = 0.5
"""Share of the image's mean colour that is blended into the surroundings of the object."""
VIEWS = 8
"""Largest number of views per track."""


def choose_views(
    frames: Sequence[int],
    boxes: np.ndarray,
    areas: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    limit: int = VIEWS,
) -> list[int]:
    """Choose the best views of a track: spread over time, not cut off at the image's border, and large.

    Args:
        frames: frame index of each view, in any order.
        boxes: (N, 4) XYXY in pixels.
        areas: area of each mask in pixels.
        sizes: height and width of each image.
        limit: largest number of views.

    Returns:
        Positions of the views, ordered by frame; all views with a pixel if there are no more than `limit`.
    """
    order = sorted((n for n in range(len(frames)) if areas[n] > 0), key=lambda n: frames[n])
    if len(order) <= limit:
        return order
    limits = np.array([[width, height] for height, width in sizes])
    whole = np.all(boxes[:, :2] >= 1, axis=1) & np.all(boxes[:, 2:] <= limits - 1, axis=1)
    parts = np.array_split(np.array(order), limit)
    return [max(part.tolist(), key=lambda n: (bool(whole[n]), areas[n])) for part in parts]


def crop_object(
    image: np.ndarray, mask: Rle, box: Sequence[float], size: int, dimming: float = DIMMING
) -> np.ndarray:
    """Crop the square around an object, with its surroundings blended into the image's mean colour.

    Args:
        image: (H, W, 3) uint8.
        mask: of the image's size.
        box: XYXY in pixels; the side of the square is `MARGIN` times its longer side.
        size: side of the result in pixels, resampled bicubically with antialiasing.
        dimming: share of the image's mean colour outside of the mask.

    Returns:
        (size, size, 3) uint8, of the mean colour beyond the image's border.
    """
    left, top, side = square(box)
    mean = image.reshape(-1, 3).mean(0)
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = mean
    height, width = image.shape[:2]
    rows, columns = np.arange(top, top + side), np.arange(left, left + side)
    y, x = (
        np.flatnonzero((line >= 0) & (line < end))
        for line, end in ((rows, height), (columns, width))
    )
    if len(y) and len(x):
        inside = (slice(rows[y[0]], rows[y[-1]] + 1), slice(columns[x[0]], columns[x[-1]] + 1))
        seen = rle.decode(mask)[inside][..., None]
        pixels = image[inside].astype(np.float32)
        faded = pixels + dimming * (mean - pixels)
        canvas[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = np.where(seen, pixels, faded)
    picture = Image.fromarray(np.round(canvas).astype(np.uint8))
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def square(box: Sequence[float], margin: float = MARGIN) -> tuple[int, int, int]:
    """Left, top and side of the square of whole pixels around a box XYXY."""
    left, top, right, bottom = (float(edge) for edge in box)
    side = max(2, round(margin * max(right - left, bottom - top)))
    return round((left + right - side) / 2), round((top + bottom - side) / 2), side
