"""Motion segmentation: is a pixel of a moving object found by the motion mask?

Precision and recall at 150 thresholds and the best F1 (Dynamo-Depth, section 4), and the average
precision against the base rate. Frames are added to a histogram, so memory is constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moduv.engine.errors import InputError
from moduv.frames.layouts import BACKGROUND, MOVING, STATIC

THRESHOLDS = 150
# The published thresholds run from -1/149, where every pixel counts as moving, to 148/149.
_LOWEST = -1
_FINER = 64  # histogram bins between two thresholds, for the average precision
_EDGES = np.arange((THRESHOLDS - 1) * _FINER + 1) / ((THRESHOLDS - 1) * _FINER)


@dataclass(frozen=True)
class Curve:
    """Precision and recall of moving pixels, (150,); a pixel counts as moving above the threshold."""

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


class MotionMeter:
    """Collects motion masks and their truth, frame by frame."""

    def __init__(self) -> None:
        # Bin 0 holds zeros; bin i the values in (_EDGES[i - 1], _EDGES[i]].
        self._histograms = np.zeros((3, len(_EDGES)), dtype=np.int64)
        self._sums = np.zeros(3)
        self._frames = 0

    def add(self, mask: np.ndarray, labels: np.ndarray) -> None:
        """Add a frame.

        mask    (H, W), in [0, 1]
        labels  (H, W), 0 background, 1 moving, 2 static, 3 unlabelled (left out)

        Raises InputError for shapes that differ and values out of range.
        """
        if mask.shape != labels.shape:
            raise InputError(
                f"the motion mask is {mask.shape} and its labels {labels.shape}; resize one of them."
            )
        if not ((mask >= 0) & (mask <= 1)).all():
            raise InputError("the motion mask leaves [0, 1]; give probabilities, not logits.")
        for label in (BACKGROUND, MOVING, STATIC):
            values = mask[labels == label].astype(np.float64)
            bins = np.searchsorted(_EDGES, values, side="left")
            self._histograms[label] += np.bincount(bins, minlength=len(_EDGES))
            self._sums[label] += values.sum()
        self._frames += 1

    @property
    def moving_pixels(self) -> int:
        """How many moving pixels were seen."""
        return int(self._histograms[MOVING].sum())

    def result(self) -> tuple[dict[str, float], Curve]:
        """Metrics over all frames, and the curve behind them.

        `motion/AP` is the area under the curve, `motion/base_rate` the share of moving pixels: the AP of
        a coin. `motion/mean_{moving,static,background}` are the mask's means there (-1 where there is no
        pixel): a collapsed mask shows as equal numbers.

        Raises InputError when no moving pixel was seen.
        """
        positive = self._histograms[MOVING]
        negative = self._histograms[BACKGROUND] + self._histograms[STATIC]
        if not positive.any():
            raise InputError("no frame has a moving pixel; evaluate on frames with moving objects.")
        # Pixels in bin i or a later one, i.e. above _EDGES[i - 1].
        true, false = (np.cumsum(h[::-1])[::-1] for h in (positive, negative))
        precision = true / np.maximum(true + false, 1)
        recall = true / true[0]
        # At threshold k / 149 the bins from k * _FINER + 1 on are above; below zero, all are.
        at = np.concatenate([[0], np.arange(THRESHOLDS - 1) * _FINER + 1])
        # Over pixels, not thresholds: (P + N) F1 = 2 TP / (TP + FP + P).
        f1 = 2 * true[at] / (true[at] + false[at] + true[0])
        best = int(np.argmax(f1))
        thresholds = (np.arange(THRESHOLDS) + _LOWEST) / (THRESHOLDS - 1)
        counts = self._histograms.sum(axis=1)
        means = np.where(counts > 0, self._sums / np.maximum(counts, 1), -1.0)
        metrics = {
            "motion/AP": float(-np.diff(np.append(recall, 0.0)) @ precision),
            "motion/base_rate": float(precision[0]),
            "motion/best_F1": float(f1[best]),
            "motion/best_threshold": float(thresholds[best]),
            "motion/mean_moving": float(means[MOVING]),
            "motion/mean_static": float(means[STATIC]),
            "motion/mean_background": float(means[BACKGROUND]),
            "motion/frames": self._frames,
        }
        return metrics, Curve(thresholds, precision[at], recall[at])
