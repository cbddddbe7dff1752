"""Which masks are objects: of slots, and of predictions (Nguyen et al. 2024, section 3.2).

The paper says what for; the numbers are those of its authors' published system.
"""

from __future__ import annotations

import cv2
import numpy as np

from moduv.instances import rle

KERNEL = np.ones((5, 5), np.uint8)
ERODED = 5
"""How often a slot is eroded, and then dilated, before its box is taken."""
LARGEST = 0.5
"""Share of the image from which on a slot's box is none of an object."""
FILLED = 0.5
"""Share of its box that a slot must exceed."""
SMALLEST = 0.001
"""Share of the image that a label must exceed."""
BOXLIKE = 0.1
"""Share of its own area by which a predicted mask may differ from its box."""
COVERED = 0.25
"""Share of a mask from which on a larger one that covers it replaces it."""


def slot_labels(slots: np.ndarray, road: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Objects (M, H, W) bool among the slots of a frame (N, H, W) bool, the largest first.

    The largest slot is the background. Of the others, what moves and is no road gives a box, which must stand on the
    road; what moves in the box and is no road is the object.

    Args:
        road, moving: (H, W) bool.
    """
    free = moving & ~road
    objects = []
    for number in np.argsort(slots.sum((1, 2)), kind="stable")[:-1]:
        solid = cv2.erode((slots[number] & free).astype(np.uint8), KERNEL, iterations=ERODED)
        solid = cv2.dilate(solid, KERNEL, iterations=ERODED)
        if not solid.any():
            continue
        left, top, right, bottom = rle.extent(solid)
        box = np.zeros_like(road)
        box[top:bottom, left:right] = True
        area = np.count_nonzero(box)
        if area >= LARGEST * box.size or not (box & road).any() or solid.sum() <= FILLED * area:
            continue
        label = (box & free).astype(np.uint8)
        if np.count_nonzero(label) > SMALLEST * label.size:
            objects.append((cv2.morphologyEx(label, cv2.MORPH_CLOSE, KERNEL) > 0) & free)
    return _largest_first(np.array(objects).reshape(-1, *road.shape))


def clean_masks(masks: np.ndarray, road: np.ndarray, unlike_box: float = BOXLIKE) -> np.ndarray:
    """The predicted masks (M, H, W) bool, without road, that look like objects of their own, the largest first.

    Those go whose shape is unlike their box; of those that cover each other, one is left, see `distinct_masks`.

    Args:
        masks: (N, H, W) bool.
        road: (H, W) bool.
        unlike_box: share of its own area by which a mask may differ from its box.
    """
    likely = masks[np.array([_unlike_box(mask) < unlike_box for mask in masks], bool)]
    free = distinct_masks(likely) & ~road
    return free[free.sum((1, 2)) > SMALLEST * road.size]


def _unlike_box(mask: np.ndarray) -> float:
    """By how much of its own area a mask differs from its box; of an empty one, by all."""
    left, top, right, bottom = rle.extent(mask)
    area = np.count_nonzero(mask)
    return (right - left) * (bottom - top) / area - 1 if area else np.inf


def distinct_masks(masks: np.ndarray) -> np.ndarray:
    """The masks (M, H, W) bool of which no larger one covers a quarter, the largest of (N, H, W) first.

    The authors' code also joins a mask to the one that covers half of it, but takes the union apart again when it comes
    to that one: the larger mask is left as it was, which is what is done here.
    """
    kept: list[np.ndarray] = []
    for mask in _largest_first(masks):
        shares = [np.count_nonzero(mask & other) / max(1, mask.sum()) for other in kept]
        if max(shares, default=0.0) < COVERED:
            kept.append(mask)
    return np.array(kept, bool).reshape(-1, *masks.shape[1:])


def _largest_first(masks: np.ndarray) -> np.ndarray:
    return masks[np.argsort(masks.sum((1, 2)), kind="stable")[::-1]]
