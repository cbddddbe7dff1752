"""L1: what a detector predicts with enough confidence (MOD-UV, section 3.2)."""

from __future__ import annotations

import numpy as np

from moduv.labels import rle
from moduv.labels.instances import Instances, Predictions


def from_predictions(
    predictions: Predictions, score_threshold: float = 0.5, *, mask_threshold: float = 0.5
) -> Instances:
    """Instances of the detections above a score, in the detector's order.

    Args:
        predictions: soft masks, boxes and scores of one image.
        score_threshold: detections with a score strictly above it are kept.
        mask_threshold: pixels with a probability strictly above it belong to the mask.

    Boxes are kept as predicted, and so are detections whose mask turns out empty.
    """
    scores = predictions.scores.float().cpu().numpy()
    boxes = predictions.boxes.float().cpu().numpy()
    chosen = np.flatnonzero(scores > score_threshold)
    masks = [rle.encode((predictions.masks[i] > mask_threshold).cpu().numpy()) for i in chosen]
    height, width = predictions.masks.shape[-2:]
    return Instances(masks, boxes[chosen], scores[chosen], (int(height), int(width)))
