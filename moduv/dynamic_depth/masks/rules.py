"""Rules by which masks of slots, and predicted masks, are objects (Nguyen et al. 2024, section 3.2).

The paper describes the rules; the numbers are those of the authors' code.
"""

from __future__ import annotations

import cv2
import numpy as np

from moduv.instances import rle

KERNEL = np.ones((5, 5), np.uint8)
ERODED = 5
"""Iterations of erosion, and then of dilation, of a slot before its box is taken."""
LARGEST = 0.5
"""A slot whose box covers this share of the image or more is no object."""
FILLED = 0.5
"""A slot must fill more than this share of its box."""
SMALLEST = 0.001
"""A label must cover more than this share of the image."""
BOXLIKE = 0.1
"""A predicted mask whose box exceeds its area by this share or more is no object."""
COVERED = 0.25
"""A mask is dropped if a larger one covers this share of it or more."""


def slot_labels(slots: np.ndarray, road: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Objects (M, H, W) bool among the slots of a frame (N, H, W) bool, the largest first.

    The largest slot is the background. In each of the others, the moving pixels off the road have a box, which must
    touch the road; the object is everything in this box that moves and is not road.

    Args:
        slots: (N, H, W) bool.
        road: (H, W) bool.
        moving: (H, W) bool.
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
    """The predicted masks (M, H, W) bool that look like single objects, without the road, the largest first.

    Masks whose shape is unlike their box are dropped, and so are duplicates, see `distinct_masks`.

    Args:
        masks: (N, H, W) bool.
        road: (H, W) bool.
        unlike_box: masks whose box exceeds their area by this share or more are dropped.
    """
    likely = masks[np.array([_unlike_box(mask) < unlike_box for mask in masks], bool)]
    free = distinct_masks(likely) & ~road
    return free[free.sum((1, 2)) > SMALLEST * road.size]


def _unlike_box(mask: np.ndarray) -> float:
    """The share of its own area by which the box of a mask exceeds it; infinite for an empty mask."""
    left, top, right, bottom = rle.extent(mask)
    area = np.count_nonzero(mask)
    return (right - left) * (bottom - top) / area - 1 if area else np.inf


def distinct_masks(masks: np.ndarray) -> np.ndarray:
    """Drop the masks (N, H, W) bool of which a larger one covers a quarter or more; the rest, the largest first.

    The authors' code also merges a mask into one that covers half of it, but undoes this when it comes to the larger
    mask, which therefore stays as it was, as it does here.
    """
    kept: list[np.ndarray] = []
    for mask in _largest_first(masks):
        shares = [np.count_nonzero(mask & other) / max(1, mask.sum()) for other in kept]
        if max(shares, default=0.0) < COVERED:
            kept.append(mask)
    return np.array(kept, bool).reshape(-1, *masks.shape[1:])


def _largest_first(masks: np.ndarray) -> np.ndarray:
    return masks[np.argsort(masks.sum((1, 2)), kind="stable")[::-1]]
