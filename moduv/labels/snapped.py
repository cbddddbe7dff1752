"""Initial labels snapped to the image: an option beside the published L0, for coarse motion masks.

A motion mask at a fraction of the image's size tells where something moves, not where it ends. GrabCut
(Rother et al. 2004) separates the colours inside an instance from those around it; where it finds no
object of its own colours, the instance was an error of depth or an occlusion and is dropped.
"""

from __future__ import annotations

import cv2
import numpy as np

from moduv.labels import rle
from moduv.labels.instances import Instances

RING = 6
"""Pixels around an instance that may belong to it."""
MARGIN = 4
"""Pixels beyond half the instance's size that surely belong to the background."""
ITERATIONS = 3
CHANGE = (0.3, 3.0)
"""Range of the area's change within which the snapped mask replaces the motion's."""


def snap_to_image(instances: Instances, image: np.ndarray) -> Instances:
    """Fit the masks to the image's colours and drop those that have none of their own.

    Args:
        instances: masks at the size of the image.
        image: (H, W, 3) uint8 RGB.

    Returns:
        Instances in the same order, without scores.
    """
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    masks, boxes = [], []
    for mask, box in zip(instances.decode(), instances.boxes, strict=True):
        rows, columns = _surroundings(box, mask.shape)
        crop = mask[rows, columns]
        snapped = _cut(np.ascontiguousarray(colours[rows, columns]), crop)
        if snapped is None:
            continue
        if not CHANGE[0] < snapped.sum() / crop.sum() < CHANGE[1]:
            snapped = crop
        ys, xs = np.nonzero(snapped)
        top, left = rows.start, columns.start
        masks.append(rle.encode_crop(snapped, top, left, mask.shape))
        corners = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        boxes.append(np.array(corners) + np.array((left, top, left, top)))
    return Instances(masks, np.array(boxes, np.float32).reshape(-1, 4), size=instances.size)


def _surroundings(box: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the instance and half its size around it."""
    left, top, right, bottom = box
    x, y = 0.5 * (right - left) + MARGIN, 0.5 * (bottom - top) + MARGIN
    rows = slice(int(max(0, top - y)), int(min(shape[0], bottom + y)))
    return rows, slice(int(max(0, left - x)), int(min(shape[1], right + x)))


def _cut(colours: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The largest connected foreground (h, w) bool; None when everything is background."""
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    near = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    state = np.full(mask.shape, cv2.GC_BGD, np.uint8)
    state[near] = cv2.GC_PR_BGD
    state[mask] = cv2.GC_PR_FGD
    if near.all():
        # GrabCut needs a pixel of certain background; the crop's rim is the farthest there is.
        state[0] = state[-1] = cv2.GC_BGD
    if not (state == cv2.GC_PR_FGD).any():
        return None
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(colours, state, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    foreground = (state == cv2.GC_PR_FGD).astype(np.uint8)
    count, labels, measures, _ = cv2.connectedComponentsWithStats(foreground)
    if count < 2:
        return None
    return labels == 1 + int(np.argmax(measures[1:, cv2.CC_STAT_AREA]))
