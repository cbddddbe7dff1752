"""What an encoder is shown of an object: the views of its track that show most, cropped around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from moduv.instances import rle
from moduv.instances.rle import Rle

MARGIN = 1.2
"""Side of a crop by the longer side of the object's box."""
DIMMING = 0.5
"""Share of the image's mean colour in what is around the object: context stays, neighbours fade."""
VIEWS = 8
"""Of a track, at most."""


def choose_views(
    frames: Sequence[int],
    boxes: np.ndarray,
    areas: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    limit: int = VIEWS,
) -> list[int]:
    """The positions of a track's best views: spread over its time, off the image's edge, and large.

    Args:
        frames: number of the frame of each view, in any order.
        boxes: (N, 4) XYXY in pixels.
        areas: pixels of each mask.
        sizes: height and width of each image.
        limit: how many views at most.

    Returns:
        Positions, by frame; of a short track all that show anything.
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
    """The square around an object, its surroundings dimmed to the image's mean.

    Args:
        image: (H, W, 3) uint8.
        mask: of the image's size.
        box: XYXY in pixels; the square is `MARGIN` times as long as its longer side.
        size: side of the result, pixels; resampling is bicubic and averages when it shrinks.
        dimming: share of the image's mean colour outside of the mask.

    Returns:
        (size, size, 3) uint8; beyond the image's edge the mean colour.
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
