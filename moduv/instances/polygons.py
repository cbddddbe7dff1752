"""Masks as COCO polygons along the edges of their pixels, for tools that read no run-length masks."""

from __future__ import annotations

import cv2
import numpy as np

from moduv.instances import rle
from moduv.instances.rle import Rle


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
