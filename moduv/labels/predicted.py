"""L1: what a detector predicts with enough confidence (MOD-UV, section 3.2)."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from moduv.labels.instances import Instances, Predictions
from moduv.labels.soft import check_finite


def from_predictions(
    predictions: Predictions, score_threshold: float = 0.5, *, mask_threshold: float = 0.5
) -> Instances:
    """Instances of the detections above a score, in the detector's order.

    Args:
        predictions: soft masks, boxes and scores of one image.
        score_threshold: detections with a score strictly above it are kept.
        mask_threshold: pixels with a probability strictly above it belong to the mask.

    Boxes are kept as predicted, and so are detections whose mask turns out empty. Raises InputError
    when the soft masks hold numbers that are not finite.
    """
    chosen = predictions.above(score_threshold)
    check_finite(chosen.crops)
    masks = [crop.encode(mask_threshold, chosen.size) for crop in chosen.crops]
    boxes, scores = chosen.boxes.float().cpu().numpy(), chosen.scores.float().cpu().numpy()
    return Instances(masks, boxes, scores, chosen.size)


def without_nested(instances: Instances, cover: float) -> Instances:
    """Drop instances that share more than `cover` of themselves with a better one, or it with them.

    A detector of coarse labels finds an object and its parts at once; box suppression keeps both,
    because their IoU is small.

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
    for position in np.argsort(-instances.scores, kind="stable"):
        if not kept or share[position, kept].max() <= cover:
            kept.append(int(position))
    return instances[sorted(kept)]
