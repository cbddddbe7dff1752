"""A score threshold without ground truth: where one more view of a frame would rather agree than not.

A detector that sees a frame mirrored or at another size makes other errors and finds the same objects.
Each view judges in turn what the others say together: of the labels with a score it finds a share again. High
scores are found again nearly always, low ones hardly ever; a label is kept where the share exceeds one half, where it
is more likely an object than an error. A view does not judge a score that it has a part in, so the share is
not flattered. Errors that all views share, such as those that a detector was taught, stay unseen.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import isotonic_regression

from moduv.instances.instances import Instances
from moduv.labels.predicted import SAME

MAJORITY = 0.5
"""Share of labels found again above which a label is more likely an object than an error."""


def found_again(labels: Instances, view: Instances) -> np.ndarray:
    """Whether each label of a frame is among what was found in a view of it, (N,) bool."""
    overlap = _iou(labels.boxes, view.boxes)
    return overlap.max(axis=1, initial=0.0) > SAME


def agreed_score(scores: np.ndarray, found: np.ndarray) -> float:
    """The score above which most labels are found again.

    The share of labels found is a rising function of the score, fitted to the data without another
    assumption (isotonic regression, Barlow et al. 1972), so there are no bins and no smoothing to choose.

    Args:
        scores: (N,), of labels of many frames.
        found: (N,) bool, whether a view that has no part in the score found them.

    Returns:
        A score, to keep labels strictly above it: 0 where even the lowest are found, and the highest score where
        none are, which keeps nothing.
    """
    if not len(scores):
        return 0.0
    values, place = np.unique(scores, return_inverse=True)
    count = np.bincount(place)
    share = np.bincount(place, weights=found) / count
    rising = isotonic_regression(share, weights=count).x
    below = values[rising <= MAJORITY]
    return float(below[-1]) if len(below) else 0.0


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) and (M, 4) XYXY, (N, M)."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    return np.asarray(coco.iou(_xywh(first), _xywh(second), [0] * len(second)))


def _xywh(boxes: np.ndarray) -> np.ndarray:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
