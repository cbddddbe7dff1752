"""A score threshold without ground truth: the labels of the best F1 that can be expected.

What is an object is found again by a view that has no part in a label's score: the frame mirrored, at another size, or
seen by a detector that was taught by other labels. The share that is found again at a score is taken for the
probability that a label with this score is right, and the labels with the greatest expected F1 are kept, as
the pixels of a mask with the greatest expected Dice coefficient are, which is the same measure.

A detector repeats what it was taught in every view, errors included. So its views judge each other only
in Moving2Mobile, whose labels are to differ from those it was taught; later rounds are judged by the one before.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import isotonic_regression

from moduv.instances.instances import Instances
from moduv.labels.predicted import SAME, dice_threshold


def found_again(labels: Instances, view: Instances) -> np.ndarray:
    """Whether each label of a frame is among what was found in a view of it, (N,) bool."""
    overlap = _iou(labels.boxes, view.boxes)
    return overlap.max(axis=1, initial=0.0) > SAME


def agreed_score(scores: np.ndarray, found: np.ndarray) -> float:
    """The score above which labels have the greatest expected F1.

    The share of labels found again is a rising function of the score, fitted to the data without another
    assumption (isotonic regression, Barlow et al. 1972), so there are no bins and no smoothing to choose.

    Args:
        scores: (N,), of labels of many frames.
        found: (N,) bool, whether a view that has no part in the score found them.

    Returns:
        A score, to keep labels strictly above it: 0 where all are kept, and the highest score where none is
        found, which keeps nothing.
    """
    if not len(scores):
        return 0.0
    values, place = np.unique(scores, return_inverse=True)
    count = np.bincount(place)
    rising = isotonic_regression(np.bincount(place, weights=found) / count, weights=count).x
    below = values[rising < dice_threshold(rising[place])]
    return float(below[-1]) if len(below) else 0.0


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) and (M, 4) XYXY, (N, M)."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    return np.asarray(coco.iou(_xywh(first), _xywh(second), [0] * len(second)))


def _xywh(boxes: np.ndarray) -> np.ndarray:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
