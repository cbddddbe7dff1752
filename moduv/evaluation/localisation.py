"""Localisation without classes and with names, as Fan et al. (ICCV 2023) measure it, and as it should be.

The published measures are strange in places: predicted boxes are inclusive pixel indices and true ones
half-open; CorLoc and DecRate ask for an IoU above 0.5, AP for one of at least 0.5 of boxes that are two
pixels wider and higher; a prediction may find several objects; false boxes cost CorLoc and DecRate nothing,
so that confetti reaches 0.84. Hence they stand beside boxes a frame and precision here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from moduv.engine.log import say
from moduv.evaluation.masks import mask_measures
from moduv.evaluation.tables import show_metrics
from moduv.instances import rle
from moduv.instances.coco import (
    Annotation,
    DataSet,
    Source,
    group_by_image,
    is_ignored,
    read_ground_truth,
    read_results,
)

THRESHOLD = 0.5
AP_EXTRA = 2.0
"""Pixels that the published AP adds to both sides of every box."""


def evaluate_localisation(
    ground_truth: Path, predictions: Path, out: Path | None = None, score: float = 0.5
) -> None:
    """Measure localisation as published (CorLoc, DecRate, AP) and corrected, and masks (ARI, FG-ARI, mBO).

    Args:
        ground_truth: COCO JSON; classes are the objects' `name`, or their categories where none has one.
        predictions: COCO results, or a COCO data set, such as those of `moduv name`.
        out: where to write the metrics as JSON.
        score: predictions with a score above it count, and those without score.
    """
    metrics = measure_localisation(ground_truth, predictions, score)
    show_metrics(metrics, out)


def measure_localisation(
    ground_truth: Source, predictions: Source, score: float = 0.5
) -> dict[str, float]:
    """What `published` and `corrected` return, under `published/` and `corrected/`, over the same boxes.

    Where all objects and predictions have masks, also `mask/ARI`, `mask/FG-ARI`, `mask/mBO`, image by image,
    without the pixels of ignored objects. Ignored objects are none; only the corrected form forgives
    boxes on them.

    Raises InputError for broken files.
    """
    truth = read_ground_truth(ground_truth)
    results = read_results(predictions, truth)
    kept = [entry for entry in results.annotations if entry.get("score", score + 1) > score]
    _say_strange(truth, kept, results.name)
    frames = _frames(truth, kept)
    metrics = {f"published/{name}": value for name, value in published(frames).items()}
    metrics |= {f"corrected/{name}": value for name, value in corrected(frames).items()}
    if truth.masks and results.masks and truth.annotations:
        sides = group_by_image(truth.annotations), group_by_image(kept)
        maps = [
            _maps(image.size or (0, 0), *(side[key] for side in sides))
            for key, image in truth.images.items()
        ]
        measured = mask_measures([true for true, _ in maps], [found for _, found in maps])
        metrics |= {f"mask/{name}": value for name, value in measured.items()}
    return metrics


def _classes(truth: DataSet) -> Callable[[Annotation], str]:
    """What class an object is of: its name, or its category where no true object has a name."""
    categories = {c["id"]: c.get("name") for c in truth.content.get("categories") or []}
    by_name = any("name" in entry for entry in truth.annotations)

    def class_of(entry: Annotation) -> str:
        word = entry.get("name") if by_name else categories.get(entry.get("category_id"))
        return "no name" if word is None else str(word)

    return class_of


def _say_strange(truth: DataSet, found: Sequence[Annotation], source: str) -> None:
    """Say how many predictions are of a class that no true object has."""
    class_of = _classes(truth)
    known = {class_of(entry) for entry in truth.annotations}
    strange = Counter(class_of(entry) for entry in found if class_of(entry) not in known)
    if strange:
        say(
            f"  {source}: {strange.total()} of {len(found)} predictions are of no true class "
            f"({', '.join(sorted(strange))}); AP of classes takes them for wrong"
        )


def _frames(truth: DataSet, found: Sequence[Annotation]) -> list[Frame]:
    class_of = _classes(truth)
    words = sorted({class_of(entry) for entry in truth.annotations})
    numbers = {text: number for number, text in enumerate(words, 1)}

    def labels(entries: Sequence[Annotation]) -> np.ndarray:
        return np.array([numbers.get(class_of(entry), 0) for entry in entries], int)

    objects, predictions = group_by_image(truth.annotations), group_by_image(found)
    frames = []
    for image in truth.images:
        own = [entry for entry in objects[image] if not is_ignored(entry)]
        ignored = [entry["bbox"] for entry in objects[image] if is_ignored(entry)]
        here = predictions[image]
        scores = np.array([entry.get("score", 1.0) for entry in here], float)
        boxes = (rle.corners([entry["bbox"] for entry in side]) for side in (here, own))
        frames.append(
            Frame(next(boxes), labels(here), scores, next(boxes), labels(own), rle.corners(ignored))
        )
    return frames


def _maps(
    size: tuple[int, int], objects: Sequence[Annotation], found: Sequence[Annotation]
) -> tuple[np.ndarray, np.ndarray]:
    """Label maps (pixels,) of an image, truth and predictions; the surest prediction is on top."""
    true, predicted = np.zeros(size, int), np.zeros(size, int)
    counted = np.ones(size, bool)
    for number, entry in enumerate(objects, 1):
        pixels = rle.decode(entry["segmentation"])
        true[pixels] = number
        if is_ignored(entry):
            counted &= ~pixels
    for number, entry in enumerate(sorted(found, key=lambda e: e.get("score", 1.0)), 1):
        predicted[rle.decode(entry["segmentation"])] = number
    return true[counted], predicted[counted]


@dataclass(frozen=True)
class Frame:
    """Predicted and true boxes of a frame, XYXY in pixels."""

    predicted: np.ndarray
    """(N, 4)."""
    predicted_labels: np.ndarray
    """(N,) int."""
    scores: np.ndarray
    """(N,)."""
    true: np.ndarray
    """(M, 4)."""
    true_labels: np.ndarray
    """(M,) int."""
    ignored: np.ndarray | None = None
    """(I, 4): places where a prediction is neither right nor wrong in the corrected measures."""

    def without_labels(self) -> Frame:
        """The same boxes, all of one class."""
        predicted, true = (np.ones(len(boxes), int) for boxes in (self.predicted, self.true))
        return Frame(self.predicted, predicted, self.scores, self.true, true, self.ignored)


def box_iou(first: np.ndarray, second: np.ndarray, extra: float = 0.0) -> np.ndarray:
    """IoU (N, M) of boxes XYXY whose sides are `extra` pixels longer; 0 where both have no area."""
    first, second = (np.asarray(b, np.float64).reshape(-1, 4) for b in (first, second))
    corner = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = (corner - np.maximum(first[:, None, :2], second[None, :, :2]) + extra).clip(0)
    areas = [np.prod(b[:, 2:] - b[:, :2] + extra, axis=1) for b in (first, second)]
    inner = sides.prod(2)
    union = areas[0][:, None] + areas[1] - inner
    return inner / np.where(union > 0, union, 1.0)


def one_to_one(overlaps: np.ndarray) -> np.ndarray:
    """What each row (N, M) has of its own column, of the largest sum; 0 where it has none: (N,)."""
    own = np.zeros(len(overlaps))
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    own[rows] = overlaps[rows, columns]
    return own


def best_overlap(overlaps: np.ndarray) -> np.ndarray:
    """What each row (N, M) has of its best column, which others may have, too: (N,)."""
    return overlaps.max(1, initial=0.0)


def corloc(frames: Sequence[Frame]) -> float:
    """Share of frames with objects in which one has a prediction with an IoU above 0.5 (published)."""
    return _over_frames(frames, best_overlap, lambda ious: float((ious > THRESHOLD).any()))


def decrate(
    frames: Sequence[Frame], matching: Callable[[np.ndarray], np.ndarray] = best_overlap
) -> float:
    """Share of a frame's objects found at an IoU above 0.5, averaged over frames with objects (published)."""
    return _over_frames(frames, matching, lambda ious: float((ious > THRESHOLD).mean()))


def mean_overlap(
    frames: Sequence[Frame], matching: Callable[[np.ndarray], np.ndarray] = best_overlap
) -> float:
    """Mean IoU of a frame's objects, averaged over frames with objects (published)."""
    return _over_frames(frames, matching, lambda ious: float(ious.mean()))


def _over_frames(
    frames: Sequence[Frame],
    matching: Callable[[np.ndarray], np.ndarray],
    value: Callable[[np.ndarray], float],
) -> float:
    counted = [frame for frame in frames if len(frame.true)]
    found = [value(matching(box_iou(frame.true, frame.predicted))) for frame in counted]
    return float(np.mean(found)) if found else -1.0


def average_precision(
    frames: Sequence[Frame], label: int, threshold: float, extra: float = 0.0
) -> float | None:
    """Area under the interpolated precision of a class; None where there is no object of it.

    Predictions by falling score take the best true box that is left, at an IoU of at least `threshold`.
    """
    hits, scores, objects = [], [], 0
    for frame in frames:
        true = frame.true[frame.true_labels == label]
        chosen = np.flatnonzero(frame.predicted_labels == label)
        order = chosen[np.argsort(-frame.scores[chosen], kind="stable")]
        hits += _greedy(box_iou(frame.predicted[order], true, extra), threshold)
        scores += frame.scores[order].tolist()
        objects += len(true)
    if not objects:
        return None
    right = np.array(hits, float)[np.argsort(-np.array(scores), kind="stable")].cumsum()
    recall = np.concatenate([[0.0], right / objects, [1.0]])
    precision = np.concatenate([[0.0], right / np.arange(1, len(right) + 1), [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


def _greedy(overlaps: np.ndarray, threshold: float) -> list[bool]:
    """Whether each prediction, in order, finds a true box that none before has taken."""
    hits, left = [], overlaps.copy()
    for row in left:
        best = int(row.argmax()) if len(row) else 0
        hit = bool(len(row)) and bool(row[best] >= threshold)
        if hit:
            left[:, best] = -1.0
        hits.append(hit)
    return hits


def mean_average_precision(
    frames: Sequence[Frame], threshold: float, extra: float = 0.0
) -> tuple[float, dict[int, float]]:
    """Mean AP over the classes that have objects, -1 where none has, and the AP of each."""
    labels = sorted({int(label) for frame in frames for label in frame.true_labels})
    each = {label: average_precision(frames, label, threshold, extra) for label in labels}
    known = {label: value for label, value in each.items() if value is not None}
    return (float(np.mean([*known.values()])) if known else -1.0), known


def published(frames: Sequence[Frame]) -> dict[str, float]:
    """The measures of the paper's code; predicted boxes are inclusive pixel indices there.

    Returns `AP50`, `AP75`, and without labels `AP50_agnostic`, `AP75_agnostic`; `CorLoc`, `DecRate`;
    -1 where there is nothing to average.
    """
    plain = [frame.without_labels() for frame in frames]
    return {
        "AP50": mean_average_precision(frames, 0.5, AP_EXTRA)[0],
        "AP75": mean_average_precision(frames, 0.75, AP_EXTRA)[0],
        "AP50_agnostic": mean_average_precision(plain, 0.5, AP_EXTRA)[0],
        "AP75_agnostic": mean_average_precision(plain, 0.75, AP_EXTRA)[0],
        "CorLoc": corloc(frames),
        "DecRate": decrate(frames),
    }


def corrected(frames: Sequence[Frame]) -> dict[str, float]:
    """The same with half-open boxes on both sides, and a prediction for each object.

    `CorLoc` and `DecRate` ask for an IoU of at least 0.5 and one-to-one pairs, `DecRate` over all objects
    instead of frame by frame. `precision` is the share of boxes that are some object's own, `boxes_a_frame`
    their number. Boxes without area do not count, nor boxes on ignored objects that are no object's own.
    """
    frames = [_counted(frame) for frame in frames]
    plain = [frame.without_labels() for frame in frames]
    found = [one_to_one(box_iou(f.true, f.predicted)) >= THRESHOLD for f in frames]
    with_objects = [bool(f.any()) for f in found if len(f)]
    every = np.concatenate([np.zeros(0, bool), *found])
    boxes = sum(len(frame.predicted) for frame in frames)
    return {
        "AP50": mean_average_precision(frames, 0.5)[0],
        "AP75": mean_average_precision(frames, 0.75)[0],
        "AP50_agnostic": mean_average_precision(plain, 0.5)[0],
        "AP75_agnostic": mean_average_precision(plain, 0.75)[0],
        "CorLoc": float(np.mean(with_objects)) if with_objects else -1.0,
        "DecRate": float(every.mean()) if len(every) else -1.0,
        "precision": float(every.sum() / boxes) if boxes else -1.0,
        "boxes_a_frame": boxes / len(frames) if frames else -1.0,
    }


def _counted(frame: Frame) -> Frame:
    """Without boxes of no area, and without those that lie on ignored objects and on no other."""
    sides = frame.predicted[:, 2:] - frame.predicted[:, :2]
    kept = np.all(sides > 0, axis=1)
    if frame.ignored is not None and len(frame.ignored):
        own = best_overlap(box_iou(frame.predicted, frame.true)) >= THRESHOLD
        kept &= own | (_inside(frame.predicted, frame.ignored) < THRESHOLD)
    chosen = frame.predicted[kept], frame.predicted_labels[kept], frame.scores[kept]
    return Frame(*chosen, frame.true, frame.true_labels, frame.ignored)


def _inside(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The largest share of each box (N, 4) that one of the others (M, 4) covers: (N,)."""
    corner = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = (corner - np.maximum(boxes[:, None, :2], others[None, :, :2])).clip(0)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return (sides.prod(2) / np.maximum(areas, 1e-12)[:, None]).max(1, initial=0.0)
