"""Labels snapped to the image: an option beside the published L0, L1 and L2, for coarse masks.

A motion mask, or the mask of a detector that was taught by motion masks, tells where an object is, not
where it ends. Two steps move its rim to where the image's colours change: superpixels (Felzenszwalb and
Huttenlocher 2004) join or leave the mask as a whole, and GrabCut (Rother et al. 2004) separates the
colours of the mask's core from those around it.
"""

from __future__ import annotations

import cv2
import numpy as np
from skimage.segmentation import felzenszwalb

from moduv.instances import rle
from moduv.instances.instances import Instances

SUPERPIXEL = {"scale": 100, "sigma": 0.4, "min_size": 15}
"""Felzenszwalb's parameters, for frames of about 100 rows."""
RING = 5
"""Pixels around a mask that may belong to it."""
CORE = 0.4
"""Share of a mask's greatest distance from its rim beyond which a pixel surely belongs to it."""
MARGIN = 4
"""Pixels beyond half the mask's size that surely belong to the background."""
ITERATIONS = 3
CHANGE = (0.4, 2.5)
"""Range of the area's change within which a step's result replaces what it was given."""


def snap_to_image(
    instances: Instances, image: np.ndarray, *, certain: np.ndarray | None = None
) -> Instances:
    """Fit masks to the image's colours.

    Args:
        instances: masks at the size of the image.
        image: (H, W, 3) uint8 RGB.
        certain: (N,) bool; the others are dropped where GrabCut, given no core to hold on to, finds no
            object of its own colours: those are mostly errors of depth and occlusions. None: all are.

    Returns:
        The instances that are left, in the same order and with their scores; boxes fit the masks.
    """
    if not len(instances):
        return instances
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    superpixels = felzenszwalb(image, **SUPERPIXEL)
    sizes = np.bincount(superpixels.ravel())
    masks, boxes, kept = [], [], []
    for position, mask in enumerate(instances.decode()):
        doubtful = certain is not None and not certain[position]
        if not mask.any() or (doubtful and not _has_own_colours(colours, mask)):
            continue
        snapped = _cut_around(colours, _whole_superpixels(mask, superpixels, sizes))
        masks.append(rle.encode(snapped))
        boxes.append(rle.extent(snapped))
        kept.append(position)
    scores = None if instances.scores is None else instances.scores[kept]
    return Instances(masks, np.array(boxes, np.float32).reshape(-1, 4), scores, size=instances.size)


def _whole_superpixels(mask: np.ndarray, superpixels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The superpixels of which more than half belongs to the mask."""
    share = np.bincount(superpixels[mask], minlength=len(sizes)) / sizes
    return _unless_changed_much((share > 0.5)[superpixels], mask)


def _cut_around(colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """GrabCut of the mask (H, W) with a certain core; the largest connected part."""
    rows, columns = _surroundings(mask)
    crop = np.ascontiguousarray(mask[rows, columns])
    inside = cv2.distanceTransform(np.pad(crop, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    cut = _grab_cut(colours[rows, columns], crop, inside >= CORE * inside.max())
    if cut is None:
        return mask
    snapped = np.zeros_like(mask)
    snapped[rows, columns] = cut
    return _unless_changed_much(snapped, mask)


def _has_own_colours(colours: np.ndarray, mask: np.ndarray) -> bool:
    """Whether GrabCut keeps any of the mask when it may call all of it background."""
    rows, columns = _surroundings(mask)
    crop = np.ascontiguousarray(mask[rows, columns])
    return _grab_cut(colours[rows, columns], crop, np.zeros_like(crop)) is not None


def _grab_cut(colours: np.ndarray, mask: np.ndarray, core: np.ndarray) -> np.ndarray | None:
    """The largest connected foreground (h, w) bool; None when everything is background."""
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    near = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    state = np.full(mask.shape, cv2.GC_BGD, np.uint8)
    state[near] = cv2.GC_PR_BGD
    state[mask] = cv2.GC_PR_FGD
    state[core] = cv2.GC_FGD
    if near.all():
        # GrabCut needs pixels of certain background; the crop's rim is the farthest there is.
        state[0] = state[-1] = cv2.GC_BGD
    if not np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        return None
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    crop = np.ascontiguousarray(colours)
    cv2.grabCut(crop, state, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    foreground = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, labels, measures, _ = cv2.connectedComponentsWithStats(foreground)
    if count < 2:
        return None
    return labels == 1 + int(np.argmax(measures[1:, cv2.CC_STAT_AREA]))


def _unless_changed_much(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return new if CHANGE[0] < new.sum() / old.sum() < CHANGE[1] else old


def _surroundings(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the mask and half its size around it."""
    left, top, right, bottom = rle.extent(mask)
    x, y = (right - left) // 2 + MARGIN, (bottom - top) // 2 + MARGIN
    height, width = mask.shape
    rows = slice(max(0, top - y), min(height, bottom + y))
    return rows, slice(max(0, left - x), min(width, right + x))
