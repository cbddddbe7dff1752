"""COCO segmentations: polygons or runs become run-length masks, and these polygons along their pixels' edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_codec

from moduv.instances import rle
from moduv.instances.instances import LIMIT
from moduv.instances.rle import Rle

Size = tuple[int, int]
OTHER_BOX = "annotations have a 'bbox' that does not fit their mask and image"
OTHER_AREA = "annotations have an 'area' that does not fit their mask or box"
LONGEST_OUTLINE = 1 << 21
"""Pixels around all polygons of an object; filling them takes memory in proportion."""


def to_rle(segmentation: Any, size: Size | None) -> Rle:
    """A COCO segmentation, polygons or runs, as compressed runs.

    Args:
        segmentation: as COCO has it: {"size", "counts"} with runs as text, bytes or list, or polygons
            [[x, y, x, y, …], …] in pixels.
        size: height and width of the image; polygons need it, runs must have it.

    Raises:
        ValueError: saying what is wrong, to go on after the annotation's name.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError("has a 'segmentation' that is neither polygons nor runs; draw it again")
    if size is None:
        raise ValueError("has polygons on an image without 'height' and 'width'; add them")
    return _from_polygons(segmentation, size)


def _from_runs(segmentation: dict[str, Any], size: Size | None) -> Rle:
    own: Any = segmentation.get("size")
    plain = isinstance(own, list | tuple) and len(own) == 2
    if not plain or not all(type(side) is int and side > 0 for side in own):
        raise ValueError("has a mask without 'size' [height, width]; export it again as COCO RLE")
    if size is not None and tuple(own) != tuple(size):
        raise ValueError(
            f"has a mask of {own[0]} x {own[1]} on an image of {size[0]} x {size[1]}; "
            "export it at the image's size"
        )
    mask = rle.from_counts(segmentation.get("counts"), own)
    if mask is None:
        raise ValueError(
            f"has runs that do not fill its mask of {own[0]} x {own[1]}; export it again"
        )
    return mask


def _from_polygons(polygons: list[Any], size: Size) -> Rle:
    height, width = size
    outline = 0.0
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(map(is_number, polygon))
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("has a polygon that is not [x, y, x, y, x, y, …]; draw it again")
        points = np.array(polygon, float).reshape(-1, 2)
        # Tools let points stand a little outside; far ones are pixels of another image.
        if (points < [-width, -height]).any() or (points > [2 * width, 2 * height]).any():
            raise ValueError(
                f"has a polygon far outside its image of {height} x {width}; draw it again"
            )
        outline += float(abs(points - np.roll(points, 1, 0)).max(1).sum())
    if outline > LONGEST_OUTLINE:
        raise ValueError(f"has polygons {outline:.0f} pixels around; draw them with fewer turns")
    merged = coco_codec.merge(coco_codec.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode()}


def is_number(value: Any) -> bool:
    """Whether a value of a file is a finite number that float32 can hold."""
    # NaN compares false.
    number = type(value) in (float, int) or (isinstance(value, Real) and type(value) is not bool)
    return number and bool(abs(value) < LIMIT)


def contradictions(
    entry: dict[str, Any], size: Size | None, *, predicted: bool
) -> Iterable[tuple[str, str]]:
    """What an annotation says twice and differently: kinds and values."""
    box, mask, area = entry.get("bbox"), entry.get("segmentation"), entry.get("area")
    inner = rle.box(mask) if mask else (0.0, 0.0, 0.0, 0.0)
    if box and not _fits(box, inner, size, predicted=predicted):
        yield OTHER_BOX, f"{box} and {list(inner)}" if inner[2] else f"{box}, image {size}"
    # Polygons and their masks differ by half the pixels on the edge; of its box, an object fills a part.
    pixels = rle.area(mask) if mask else box[2] * box[3] if box else None
    if area is not None and pixels is not None:
        least = pixels / 2 - 16 if mask else pixels / 50 - 1
        if not least <= area <= 2 * pixels + 16:
            yield OTHER_AREA, f"{area:g} and {pixels:g}"


def _fits(
    box: Sequence[float], inner: Sequence[float], size: Size | None, *, predicted: bool
) -> bool:
    """Whether a box [x, y, w, h] lies in its image and is that of its mask, which may be empty.

    Predicted boxes may be wider, but enclose the mask, and are no [x, y, x, y].
    """
    left, top, width, height = box
    right, bottom = left + width, top + height
    if size and (min(left, top) < -1 or right > size[1] + 1 or bottom > size[0] + 1):
        return False
    x, y, w, h = inner
    slack_x, slack_y = 2 + 0.05 * w, 2 + 0.05 * h
    encloses = left <= x + slack_x and right >= x + w - slack_x
    encloses &= top <= y + slack_y and bottom >= y + h - slack_y
    encloses &= predicted or (left >= x - slack_x and right <= x + w + slack_x)
    encloses &= predicted or (top >= y - slack_y and bottom <= y + h + slack_y)
    as_corners = max(abs(left - x), abs(top - y), abs(width - x - w), abs(height - y - h)) < 1.5
    near = max(abs(right - x - w), abs(bottom - y - h)) <= 8  # in the image's corner both are alike
    return not w or (encloses and (near or not as_corners))


def to_polygons(mask: Rle, tolerance: float = 0.0) -> list[list[float]]:
    """A mask as polygons [x, y, x, y, …] in pixels, one for each of its parts, none where it is empty.

    The largest comes first: some tools read no other. COCO's polygons know no holes, so a hole is
    joined to the edge around it by a slit of no width: filled again, nothing of the mask is lost, but
    an editor shows the slit.

    Args:
        mask: as COCO's runs.
        tolerance: pixels by which the polygons may miss the mask's edge, for fewer points; 0: exact.
    """
    top, left, crop = rle.decode_crop(mask)
    if not crop.size:
        return []
    corner = np.array([left, top])
    rings = sorted(_rings(crop), key=_area, reverse=True)
    return [(_thinned(ring, tolerance) + corner).ravel().tolist() for ring in rings]


def _rings(crop: np.ndarray) -> list[np.ndarray]:
    """The edge of every part of a mask (h, w) as corners of pixels (N, 2), its holes joined to it."""
    # At twice the size, the pixels to both sides of the edge x are 2 x - 1 and 2 x: both become x.
    doubled = np.repeat(np.repeat(crop.astype(np.uint8), 2, 0), 2, 1)
    found, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    edges = [_moving((contour[:, 0] + 1) // 2) for contour in found]
    holes: dict[int, list[np.ndarray]] = {}
    for edge, parent in zip(edges, tree[0, :, 3].tolist(), strict=True):
        holes.setdefault(parent, []).append(edge)
    parts = np.flatnonzero(tree[0, :, 3] < 0).tolist()
    return [_joined(edges[part], holes.get(part, [])) for part in parts]


def _joined(ring: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """An edge with its holes, each entered from above along a slit."""
    # From the highest on: what lies above a hole is part of the ring by then.
    for hole in sorted(holes, key=lambda edge: edge[:, 1].min()):
        start = int(np.lexsort((hole[:, 0], hole[:, 1]))[0])
        x, y = hole[start]
        above = np.flatnonzero((ring[:, 0] == x) & (ring[:, 1] <= y))
        door = int(above[ring[above, 1].argmax()])
        there_and_back = [np.roll(hole, -start, 0), hole[start : start + 1]]
        ring = np.concatenate([ring[: door + 1], *there_and_back, ring[door:]])
    return ring


def _area(ring: np.ndarray) -> float:
    return cv2.contourArea(ring.astype(np.int32))


def _thinned(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed ring without the points that are on its way, within the tolerance."""
    ring = _moving(ring)
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & (
        (before * after).sum(1) > 0
    )
    corners = ring[~straight]
    if not tolerance:
        return corners
    fewer = cv2.approxPolyDP(corners.astype(np.int32), tolerance, closed=True)[:, 0]
    return fewer if len(fewer) > 2 else corners


def _moving(ring: np.ndarray) -> np.ndarray:
    """A closed ring without points that stay where the one before is."""
    return ring[(ring != np.roll(ring, 1, 0)).any(1)]
