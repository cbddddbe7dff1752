"""L1: what a detector predicts with enough confidence (MOD-UV, section 3.2)."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from moduv.instances.instances import Instances


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
