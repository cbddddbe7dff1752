"""Labels from what a detector predicts: views of a frame fused, masks and boxes fitted, one label a place.

L1 is what a detector predicts with enough confidence (MOD-UV, section 3.2). The rest are options beside the
published labels, for detectors of coarse labels: several views of a frame agree where one of them errs
(data distillation, Radosavovic et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pycocotools import mask as coco
from torchvision.ops import box_iou

from moduv.instances import rle
from moduv.instances.crops import Crop
from moduv.instances.instances import Instances, Predictions

SAME = 0.5
"""IoU above which detections of two views are of one object."""
WHOLE = 0.25
"""Power of the area by which scores are weighed where labels share pixels: a whole wins against a part of
half its width and height that is up to 1.4 times as sure."""


def without_nested(instances: Instances, cover: float) -> Instances:
    """Drop instances that share more than `cover` of themselves with a better one, or it with them.

    A detector of coarse labels finds an object and its parts at once; box suppression keeps both,
    because their IoU is small. Parts tend to be surer, so the larger of two nearly equal ones is the better.

    Args:
        instances: with scores.
        cover: share of the smaller of the two masks, in [0, 1].
    """
    if not len(instances) or instances.scores is None:
        return instances
    crowd = [1] * len(instances)
    # With the crowd flag, COCO's IoU is the share of the first mask that the second covers.
    share = np.asarray(coco.iou(instances.masks, instances.masks, crowd))
    share = np.maximum(share, share.T)
    kept: list[int] = []
    for position in np.argsort(-instances.scores * instances.areas() ** WHOLE, kind="stable"):
        if not kept or share[position, kept].max() <= cover:
            kept.append(int(position))
    return instances[sorted(kept)]


def with_fitted_masks(found: Predictions) -> Predictions:
    """The predictions with hard masks, each of the pixels that have the greatest expected Dice coefficient.

    Where a detector is unsure of an object's extent, as one of coarse labels is, few pixels exceed one half,
    and its labels would shrink from round to round. The best threshold is half the coefficient that can be
    expected (Lipton et al. 2014), one half where the mask is sure.
    """
    hard = [crop.pixels >= dice_threshold(crop.pixels) for crop in found.crops]
    crops = [
        replace(crop, pixels=pixels.astype(np.float32))
        for crop, pixels in zip(found.crops, hard, strict=True)
    ]
    return replace(found, crops=crops)


def dice_threshold(probabilities: np.ndarray) -> float:
    """The least probability of the pixels that belong to a mask of the greatest expected Dice coefficient.

    With the n surest pixels, 2 sum(p of these) / (n + sum(p of all)), which is the coefficient's expectation as
    far as that of a quotient is the quotient of expectations.
    """
    falling = np.sort(probabilities, axis=None)[::-1].astype(np.float64)
    if not len(falling) or falling[0] <= 0:
        return np.inf
    expected = 2 * np.cumsum(falling) / (np.arange(1, len(falling) + 1) + falling.sum())
    return float(falling[expected.argmax()])


def with_fitted_boxes(instances: Instances) -> Instances:
    """The instances with the boxes of their masks; empty masks are dropped.

    A box head that learned from labels of parts and blobs is off by more than its mask head.
    """
    kept = instances[instances.areas() > 0]
    boxes = [rle.box(mask) for mask in kept.masks]
    fitted = np.asarray(boxes, np.float32).reshape(-1, 4)
    fitted[:, 2:] += fitted[:, :2]
    return Instances(kept.masks, fitted, kept.scores, kept.size, kept.columns)


def fuse(views: Sequence[Predictions], score: float = 0.0) -> Predictions:
    """One set of predictions from those that a detector made of several views of a frame.

    From the best score down, every detection gathers the one that overlaps it most in each other view. The
    score is the mean over all views, 0 where a view lacks the object; mask and box are the mean of those
    found, weighted by score.

    Args:
        views: of the same frame, in its pixels.
        score: predictions with a mean score strictly above it are kept.

    Returns:
        The predictions by falling score; those of a single view as they are.
    """
    if len(views) == 1:
        return views[0]
    boxes = torch.cat([view.boxes.float() for view in views])
    scores = torch.cat([view.scores.float() for view in views])
    crops = [crop for view in views for crop in view.crops]
    owner = np.repeat(np.arange(len(views)), [len(view) for view in views])
    groups = _groups(box_iou(boxes, boxes).numpy(), scores.numpy(), owner)
    means = torch.stack([scores[group].sum() for group in groups] or [scores.sum()]) / len(views)
    kept = [n for n in (-means).argsort(stable=True).tolist() if groups and means[n] > score]
    masks, fitted = [], boxes.new_zeros(len(kept), 4)
    for row, n in enumerate(kept):
        share = scores[groups[n]] / scores[groups[n]].sum()
        fitted[row] = share @ boxes[groups[n]]
        masks.append(mean_crop([crops[i] for i in groups[n]], share.numpy()))
    return Predictions(masks, fitted, means[kept], views[0].size)


def _groups(iou: np.ndarray, scores: np.ndarray, owner: np.ndarray) -> list[list[int]]:
    """Positions of the detections of each object: one of each view at most, the best first.

    Args:
        iou: of all detections of all views, (N, N).
        scores: (N,).
        owner: the view of each, (N,).
    """
    free, groups = np.ones(len(scores), bool), []
    for position in np.argsort(-scores, kind="stable"):
        if not free[position]:
            continue
        group = [int(position)]
        for view in set(owner.tolist()) - {int(owner[position])}:
            overlap = np.where(free & (owner == view), iou[position], 0.0)
            if overlap.max(initial=0.0) > SAME:
                group.append(int(overlap.argmax()))
        free[group] = False
        groups.append(group)
    return groups


def mean_crop(crops: Sequence[Crop], weights: np.ndarray) -> Crop:
    """The weighted sum of soft masks, in the rectangle around all of theirs."""
    top, left = min(crop.top for crop in crops), min(crop.left for crop in crops)
    bottom = max(crop.inside[0].stop for crop in crops)
    right = max(crop.inside[1].stop for crop in crops)
    pixels = np.zeros((bottom - top, right - left), np.float32)
    for crop, weight in zip(crops, weights, strict=True):
        rows, columns = crop.inside
        part = pixels[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        part += np.float32(weight * crop.unit) * crop.pixels
    return Crop(top, left, pixels)
