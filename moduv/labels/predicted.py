"""L1: what a detector predicts with enough confidence (MOD-UV, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch

from moduv.labels import bits
from moduv.labels.instances import Instances, Predictions


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
    scores = predictions.scores.float().cpu().numpy()
    boxes = predictions.boxes.float().cpu().numpy()
    chosen = np.flatnonzero(scores > score_threshold)
    packed = bits.pack(predictions.masks[torch.from_numpy(chosen)], mask_threshold)
    masks = [bits.encode(row, packed.shape) for row in packed.binary]
    return Instances(masks, boxes[chosen], scores[chosen], packed.shape)
