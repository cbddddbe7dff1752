"""Detection as the paper reports it: class-agnostic AP and AR of boxes and masks.

COCO's protocol (Lin et al. 2014) through hotcoco, whose numbers equal those of pycocotools, and
what shows a round's gain: the recall of moving and of static instances, by size.
"""

from __future__ import annotations

from typing import Any

import hotcoco
import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.instances.coco import (
    CATEGORIES,
    Annotation,
    DataSet,
    Source,
    is_ignored,
    read_ground_truth,
    read_results,
)

Areas = dict[str, tuple[float, float]]

EVERYTHING = [0.0, 1e10]
# Pixels². AP and AR include both ends, as in pycocotools; recalls and counts leave out the upper,
# so that they add up.
AREAS: dict[str, Areas] = {
    "coco": {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)},
    "street": {"small": (0, 14**2), "medium": (14**2, 28**2), "large": (28**2, 1e10)},
}
RECALL_IOU = 0.5
UNDEFINED = -1.0  # pycocotools' mark for a mean over nothing


def evaluate(
    ground_truth: Source,
    predictions: Source,
    *,
    areas: str | Areas | None = None,
    max_detections: int = 100,
    score_threshold: float = 0.5,
) -> dict[str, float]:
    """Evaluate detections, or a label set, against COCO ground truth as one class.

    ground_truth     COCO data set, as a dictionary or path. Annotations with `iscrowd` or `ignore`
                     are neither asked for nor held against a detection; `moving` (0 or 1) sorts
                     instances for the recalls, and those without it count in neither
    predictions      COCO results (list), or a COCO data set such as an exported label set;
                     a missing score is 1
    areas            size ranges in pixels²: "coco" (default), "street", or {name: (low, high)}
    max_detections   per image, best scores first
    score_threshold  detections with a greater score enter precision, recall and F1 "at score";
                     0 for a label set

    Returns a flat dictionary, -1 where there is nothing to average. For `box` and, where both sides
    have masks, `mask`:

        box/AP box/AP50 box/AP75 box/AP_{size}       as pycocotools
        box/AR@1 box/AR@10 box/AR@100 box/AR_{size}  as pycocotools
        box/recall box/recall_{moving,static} box/recall_{size} box/recall_{moving,static}_{size}
                       share of objects found at IoU 0.5 by any detection
        box/precision_at_score box/recall_at_score box/F1_at_score
                       at IoU 0.5 and `score_threshold`
        box/best_F1 box/best_F1_score
                       the best F1 over thresholds, and the score above which it is reached

    and `count/{images,objects,moving,static,ignored,predictions}`, `count/{size}`.
    A mask's size is its area, a box's that of the predicted box; the ground truth's size is `area`.

    Raises InputError for files that are missing, damaged or incomplete, for predictions of unknown
    images, and for numbers that are not finite.
    """
    ranges = _named_ranges(areas)
    if max_detections < 1:
        raise InputError(f"max_detections is {max_detections}; allow at least one detection.")
    truth = read_ground_truth(ground_truth)
    results = read_results(predictions, truth)
    for data in (truth, results):
        data.tell("the file's are taken")
    with_mask = sum("segmentation" in entry for entry in truth.annotations)
    if 0 < with_mask < len(truth.annotations):
        bare = len(truth.annotations) - with_mask
        say(f"{truth.name}: {bare} objects have no mask, so that masks are not evaluated")
    _to_one_class(truth, results)
    metrics = _counts(truth, results, ranges)
    metrics |= _evaluate_kind("box", truth, results, ranges, max_detections, score_threshold)
    # No prediction at all is a result for masks too.
    if truth.masks and truth.annotations and results.masks:
        metrics |= _evaluate_kind("mask", truth, results, ranges, max_detections, score_threshold)
    return metrics


def _to_one_class(truth: DataSet, results: DataSet) -> None:
    """Number images and annotations and give all one class, as hotcoco wants them."""
    # Images in the order of their ids: it decides which of equal scores comes first.
    ids = sorted(truth.images, key=lambda key: (isinstance(key, str), key))
    numbers = {key: number for number, key in enumerate(ids, 1)}
    for data in (truth, results):
        more = ("segmentation",) if data.masks else ()
        data.annotations = [
            {
                "id": number,
                "image_id": numbers[entry["image_id"]],
                "category_id": 1,
                "bbox": entry["bbox"],
                "area": entry.get("area", entry["bbox"][2] * entry["bbox"][3]),
                "score": entry.get("score", 1.0),
                "iscrowd": int(is_ignored(entry)),
                "moving": entry.get("moving"),
                **{key: entry[key] for key in more},
            }
            for number, entry in enumerate(data.annotations, 1)
        ]


def _named_ranges(areas: str | Areas | None) -> Areas:
    if areas is None:
        return AREAS["coco"]
    if isinstance(areas, str):
        if areas not in AREAS:
            raise InputError(f"areas is {areas!r}; choose one of {', '.join(AREAS)}.")
        return AREAS[areas]
    for name, (low, high) in areas.items():
        if not low < high:
            raise InputError(f"areas[{name!r}] is ({low}, {high}); give (low, high) in pixels².")
    return areas


def _evaluate_kind(
    kind: str,
    truth: DataSet,
    results: DataSet,
    ranges: Areas,
    max_detections: int,
    score_threshold: float,
) -> dict[str, float]:
    images = [{"id": number} for number in range(1, len(truth.images) + 1)]
    truth_set = hotcoco.COCO(
        {"images": images, "annotations": truth.annotations, "categories": CATEGORIES}
    )
    # A result that carries a box is sized by it, even when masks are compared: one of them only.
    used = ("image_id", "category_id", "score", "bbox" if kind == "box" else "segmentation")
    result_set = truth_set.load_res([{k: entry[k] for k in used} for entry in results.annotations])
    averaged = hotcoco.COCOeval(truth_set, result_set, "bbox" if kind == "box" else "segm")
    lower_limits = {limit for limit in (1, 10, 100) if limit < max_detections}
    averaged.params.max_dets = sorted(lower_limits | {max_detections})
    averaged.params.area_rng = [EVERYTHING, *(list(bounds) for bounds in ranges.values())]
    averaged.params.area_rng_lbl = ["all", *ranges]
    averaged.evaluate()
    averaged.accumulate()

    # Matches once more for one IoU and all sizes: reading them from the run above is slow.
    matched = hotcoco.COCOeval(truth_set, result_set, "bbox" if kind == "box" else "segm")
    matched.params.max_dets = [max_detections]
    matched.params.area_rng = [EVERYTHING]
    matched.params.area_rng_lbl = ["all"]
    matched.params.iou_thrs = [RECALL_IOU]
    matched.evaluate()

    metrics = _average_metrics(averaged, ranges)
    metrics |= _match_metrics(matched, truth, ranges, score_threshold)
    return {f"{kind}/{name}": value for name, value in metrics.items()}


def _average_metrics(evaluator: hotcoco.COCOeval, ranges: Areas) -> dict[str, float]:
    """pycocotools' summary, for any number of size ranges."""
    result: Any = evaluator.eval
    precision = result["precision"]  # (IoU, recall, class, size, detections)
    recall = result["recall"]  # (IoU, class, size, detections)
    thresholds = np.asarray(evaluator.params.iou_thrs)
    at_50, at_75 = (int(np.argmin(np.abs(thresholds - iou))) for iou in (0.5, 0.75))
    metrics = {
        "AP": _mean(precision[:, :, 0, 0, -1]),
        "AP50": _mean(precision[at_50, :, 0, 0, -1]),
        "AP75": _mean(precision[at_75, :, 0, 0, -1]),
    }
    for index, name in enumerate(ranges, start=1):
        metrics[f"AP_{name}"] = _mean(precision[:, :, 0, index, -1])
    for index, limit in enumerate(evaluator.params.max_dets):
        metrics[f"AR@{limit}"] = _mean(recall[:, 0, 0, index])
    for index, name in enumerate(ranges, start=1):
        metrics[f"AR_{name}"] = _mean(recall[:, 0, index, -1])
    return metrics


def _mean(values: np.ndarray) -> float:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def _match_metrics(
    evaluator: hotcoco.COCOeval, truth: DataSet, ranges: Areas, score_threshold: float
) -> dict[str, float]:
    """Recalls of kinds of instances, and precision against recall, from the matches at IoU 0.5."""
    found_by_id: dict[int, bool] = {}
    scores: list[float] = []
    correct: list[bool] = []
    for image in evaluator.eval_imgs:
        if image is None:
            continue
        for annotation, found in zip(image["gtIds"], image["gtMatched"][0], strict=True):
            found_by_id[annotation] = found
        columns = (image["dtScores"], image["dtMatched"][0], image["dtIgnore"][0])
        for score, matched, ignored in zip(*columns, strict=True):
            if not ignored:
                scores.append(score)
                correct.append(matched)

    objects = [entry for entry in truth.annotations if not entry["iscrowd"]]
    found = np.array([found_by_id[entry["id"]] for entry in objects], dtype=bool)
    metrics = {
        f"recall{name}": float(found[chosen].mean()) if chosen.any() else UNDEFINED
        for name, chosen in _groups(objects, ranges).items()
    }
    return metrics | _at_score(
        np.array(scores), np.array(correct, bool), len(objects), score_threshold
    )


def _groups(objects: list[Annotation], ranges: Areas) -> dict[str, np.ndarray]:
    """Suffix of the recall -> which objects it is about, (N,) bool."""
    area = np.array([entry["area"] for entry in objects], dtype=float)
    moving = np.array([entry["moving"] for entry in objects], dtype=object)
    states = {
        "": np.ones(len(objects), bool),
        "_moving": np.array([value == 1 for value in moving], bool),
        "_static": np.array([value == 0 for value in moving], bool),
    }
    sizes = {"": np.ones(len(objects), bool)} | {
        f"_{name}": (area >= low) & (area < high) for name, (low, high) in ranges.items()
    }
    return {
        state + size: in_state & in_size
        for state, in_state in states.items()
        for size, in_size in sizes.items()
    }


def _at_score(
    scores: np.ndarray, correct: np.ndarray, objects: int, threshold: float
) -> dict[str, float]:
    """Precision, recall and F1 of the detections above `threshold`, and the best F1 of all."""
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(correct[order])
    kept = np.arange(1, len(scores) + 1)
    # F1 = 2 TP / (detections + objects); equal scores stand or fall together.
    complete = np.append(scores[:-1] > scores[1:], True)[: len(scores)]
    f1 = np.where(complete, 2 * hits / (kept + objects), 0.0)
    best = int(np.argmax(f1)) if len(f1) else -1
    above = int((scores > threshold).sum())
    true = int(hits[above - 1]) if above else 0
    lower = scores[best + 1 :][:1]
    return {
        "precision_at_score": true / above if above else UNDEFINED,
        "recall_at_score": true / objects if objects else UNDEFINED,
        "F1_at_score": 2 * true / (above + objects) if objects else UNDEFINED,
        "best_F1": float(f1[best]) if best >= 0 and objects else UNDEFINED,
        "best_F1_score": float(lower[0]) if lower.size else 0.0,
    }


def _counts(truth: DataSet, results: DataSet, ranges: Areas) -> dict[str, float]:
    objects = [entry for entry in truth.annotations if not entry["iscrowd"]]
    groups = _groups(objects, ranges)
    named = {"objects": "", "moving": "_moving", "static": "_static"} | {n: f"_{n}" for n in ranges}
    return {
        "count/images": len(truth.images),
        "count/ignored": len(truth.annotations) - len(objects),
        "count/predictions": len(results.annotations),
        **{f"count/{name}": int(groups[suffix].sum()) for name, suffix in named.items()},
    }
