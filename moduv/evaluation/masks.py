"""Agreement of segmentations: Rand indices with and without background, overlaps of masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

FOUND = 0.5
"""IoU above which a mask is found."""


def adjusted_rand(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The adjusted Rand index (Hubert and Arabie 1985) of two labellings of the same points, (N,) each.

    1 where it is not defined: all points alone or together on both sides, or no points.
    """
    table = contingency(truth, predicted).astype(np.float64)
    both, first, second, every = (
        (counts * (counts - 1) / 2).sum()
        for counts in (table, table.sum(1), table.sum(0), table.sum())
    )
    expected = first * second / every if every else 0.0
    possible = (first + second) / 2 - expected
    return float((both - expected) / possible) if possible else 1.0


def contingency(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """How many points have each pair of labels, (true labels, predicted labels), labels ascending."""
    kinds, rows = np.unique(truth, return_inverse=True)
    others, columns = np.unique(predicted, return_inverse=True)
    table = np.zeros((len(kinds), len(others)), np.int64)
    np.add.at(table, (rows.ravel(), columns.ravel()), 1)
    return table


def foreground_rand(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The adjusted Rand index of the points whose true label is not 0 (FG-ARI)."""
    inside = truth != 0
    return adjusted_rand(truth[inside], predicted[inside])


def mask_overlaps(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU (N, M) of masks (N, …) and (M, …), bool; 0 of two empty ones."""
    first, second = (
        masks.reshape(len(masks), -1).astype(np.float64) for masks in (truth, predicted)
    )
    inner = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1) - inner
    return inner / np.maximum(union, 1.0)


def published_masks(
    truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray], *, one_to_one: bool
) -> dict[str, float]:
    """Mask overlaps as the paper's code has them: true masks, the background among them, averaged by clip.

    Args:
        truth: (N, …) bool, the background first; masks that are empty do not count.
        predicted: (M, …) bool.
        one_to_one: each prediction serves one true mask (mIoU); otherwise the best any (mBO).

    Returns `iou`, the share `found` with an IoU above 0.5, and `corloc`, the share of clips in which one is.
    """
    values = []
    for true, masks in zip(truth, predicted, strict=True):
        shown = true[true.reshape(len(true), -1).any(1)]
        overlaps = mask_overlaps(shown, masks)
        own = _assigned(overlaps) if one_to_one else overlaps.max(1, initial=0.0)
        values.append([own.mean(), (own > FOUND).mean(), (own > FOUND).any()])
    iou, found, corloc = np.mean(values, 0).tolist()
    return {"iou": iou, "found": found, "corloc": corloc}


def published_mask_boxes(
    truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray], *, one_to_one: bool
) -> dict[str, float]:
    """Overlaps of the boxes around masks as the paper's code has them, averaged by frame.

    Boxes are from the first to the last pixel, so that a mask of one row or column has a box without area. Two such
    boxes divide 0 by 0 there: with the best overlap the mean becomes nan, with pairs everything does.

    Args:
        truth: of each frame, (N, H, W) bool, the background first; masks that are empty do not count.
        predicted: of each frame, (M, H, W) bool; empty ones have no box.
        one_to_one: as in `published_masks`.

    Returns `iou`, the share `found` with an IoU above 0.5, and `corloc`, the share of frames in which one is.
    """
    values = []
    for true, masks in zip(truth, predicted, strict=True):
        overlaps = _closed_overlaps(_closed_boxes(true), _closed_boxes(masks))
        if one_to_one and np.isnan(overlaps).any():
            return dict.fromkeys(("iou", "found", "corloc"), float("nan"))
        own = _assigned(overlaps) if one_to_one else overlaps.max(1, initial=0.0)
        values.append([own.mean(), (own > FOUND).mean(), (own > FOUND).any()])
    iou, found, corloc = np.mean(values, 0).tolist()
    return {"iou": iou, "found": found, "corloc": corloc}


def _closed_boxes(masks: np.ndarray) -> np.ndarray:
    """First and last pixels (N, 4) XYXY of the masks (M, H, W) that are not empty."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            boxes.append([columns[0], rows[0], columns[-1], rows[-1]])
    return np.array(boxes, float).reshape(-1, 4)


def _closed_overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (N, M) of boxes XYXY, nan where neither has an area."""
    corner = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inner = (corner - np.maximum(first[:, None, :2], second[None, :, :2])).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - inner
    return np.divide(inner, union, out=np.full_like(inner, np.nan), where=union > 0)


def published_classes(
    truth: np.ndarray, predicted: np.ndarray, classes: int, matching: str = "hungarian"
) -> tuple[np.ndarray, float]:
    """Overlaps of classes over a whole data set, predicted classes being matched to true ones by their IoU.

    Args:
        truth: class of every pixel, 0 the background.
        predicted: predicted class of every pixel, of the same shape; 0 stands for none and matches nothing.
        classes: true classes, with the background.
        matching: `hungarian`, one predicted class a true one, of the largest sum; `background`, the same without
            the background, which gets every pixel of the classes that are left; `foreground`, the same of the
            pixels alone that are no background; `majority`, each predicted class the true one it fits best.

    Returns:
        IoU of each class, (classes,), of `foreground` without the background's; and the share of right pixels.
    """
    first = int(matching in {"background", "foreground"})
    counted = truth > 0 if matching == "foreground" else np.ones(truth.shape, bool)
    table = np.zeros((int(predicted.max(initial=0)) + 1, classes))
    np.add.at(table, (predicted[counted], truth[counted]), 1)
    union = table.sum(1)[:, None] + table.sum(0) - table
    overlaps = (table / np.maximum(union, 1.0))[1:, first:]
    if matching == "majority":
        rows, columns = np.arange(len(overlaps)), overlaps.argmax(1)
    else:
        rows, columns = linear_sum_assignment(overlaps, maximize=True)
    owners = np.full(len(table), 0 if matching == "background" else -1)
    owners[rows + 1] = columns + first
    joined = (owners[:, None] == np.arange(classes)).T @ table
    right = joined.diagonal()
    ious = right / np.maximum(joined.sum(1) + table.sum(0) - right, 1.0)
    return ious[int(matching == "foreground") :], float(right.sum() / counted.sum())


def _assigned(overlaps: np.ndarray) -> np.ndarray:
    own = np.zeros(len(overlaps))
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    own[rows] = overlaps[rows, columns]
    return own


def mask_measures(truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, float]:
    """ARI, FG-ARI and mBO without the background, averaged over clips or images.

    A uniform grid has a high FG-ARI, k-means of colours a high ARI; only what has all three high has found
    objects.

    Args:
        truth: label maps of any shape, 0 the background.
        predicted: label maps of the same shapes; every value is a segment.
    """
    rands, inner, overlaps = [], [], []
    for true, found in zip(truth, predicted, strict=True):
        rands.append(adjusted_rand(true.ravel(), found.ravel()))
        if not true.any():
            continue
        inner.append(foreground_rand(true.ravel(), found.ravel()))
        table = contingency(true, found).astype(float)
        ious = table / (table.sum(1)[:, None] + table.sum(0) - table)
        overlaps.append(ious.max(1)[np.unique(true) != 0].mean())
    lists = {"ARI": rands, "FG-ARI": inner, "mBO": overlaps}
    return {name: float(np.mean(values)) if values else -1.0 for name, values in lists.items()}
