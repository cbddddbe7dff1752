"""A score threshold without ground truth: where the views of a frame begin to agree.

A detector that sees a frame mirrored or at another size makes other errors and finds the same objects. At
high scores nearly every label is found in every view, at low ones hardly any. A label is kept where, at its
score, most are found in every view: where it is more likely an object than an error. Like a share of two
observers' finds, this counts nothing that one could know from ground truth only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import isotonic_regression

from moduv.instances.instances import Instances
from moduv.labels.predicted import SAME

MAJORITY = 0.5
"""Share of labels found in every view above which a label is more likely an object than an error."""


def found_in_all(labels: Instances, views: Sequence[Instances]) -> np.ndarray:
    """Whether every view found each label, (N,) bool.

    Args:
        labels: of a frame.
        views: what was found in each view of it, in the frame's pixels.
    """
    found = np.ones(len(labels), bool)
    for view in views:
        overlap = _iou(labels.boxes, view.boxes)
        found &= overlap.max(axis=1, initial=0.0) > SAME
    return found


def agreed_score(scores: np.ndarray, found: np.ndarray) -> float:
    """The score above which most labels are found in every view.

    The share of labels found is a rising function of the score, fitted to the data without another
    assumption (isotonic regression, Barlow et al. 1972), so there are no bins and no smoothing to choose.

    Args:
        scores: (N,), of labels of many frames.
        found: (N,) bool, whether every view found them.

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
