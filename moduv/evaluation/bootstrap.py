"""How far a metric can be trusted: confidence intervals by drawing segments anew.

Frames of a segment show the same objects, so segments are drawn, not frames; with few segments the
intervals are wide, and say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.log import progress
from moduv.evaluation.coco import GroundTruth, Results, Source, read_ground_truth, read_results
from moduv.evaluation.detection import UNDEFINED, evaluate


def confidence_intervals(
    ground_truth: Source,
    predictions: Source,
    metrics: Sequence[str] = ("box/AP50", "mask/AP50"),
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of metrics of `evaluate`, over segments drawn with replacement.

    A segment is the folder of an image's `file_name`. `options` go to `evaluate`. Draws in which a
    metric is undefined are left out; (-1, -1) where it always is. Raises InputError when images
    have no file names or there are fewer than two segments, and as `evaluate` does.
    """
    truth = read_ground_truth(ground_truth)
    results = read_results(predictions, truth)
    segments = _segments(truth)
    if len(segments) < 2:
        raise InputError(
            f"{truth.name}: one segment has no spread; give images of several folders."
        )
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {metric: [] for metric in metrics}
    for _ in progress(range(resamples), desc="confidence intervals"):
        chosen = generator.integers(0, len(segments), len(segments))
        values = evaluate(*_resampled(truth, results, [segments[i] for i in chosen]), **options)
        for metric in metrics:
            if metric not in values:
                raise InputError(f"there is no metric {metric!r}; choose from {', '.join(values)}.")
            if values[metric] != UNDEFINED:
                drawn[metric].append(values[metric])
    ends = (0.5 - level / 2, 0.5 + level / 2)
    return {
        metric: (float(np.quantile(found, ends[0])), float(np.quantile(found, ends[1])))
        if found
        else (UNDEFINED, UNDEFINED)
        for metric, found in drawn.items()
    }


def _segments(truth: GroundTruth) -> list[list[Any]]:
    """Image ids of each segment."""
    segments = defaultdict(list)
    for image in truth.images:
        if "file_name" not in image:
            raise InputError(
                f"{truth.name}: image {image['id']} lacks 'file_name'; name the images."
            )
        segments[PurePosixPath(image["file_name"]).parent].append(image["id"])
    return list(segments.values())


def _resampled(
    truth: GroundTruth, results: Results, segments: list[list[Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results of the drawn segments; a segment drawn twice counts twice."""
    images_by_id = {image["id"]: image for image in truth.images}
    annotations, entries = defaultdict(list), defaultdict(list)
    for annotation in truth.annotations:
        annotations[annotation["image_id"]].append(annotation)
    for entry in results.entries:
        entries[entry["image_id"]].append(entry)
    content: dict[str, Any] = {"images": [], "annotations": []}
    predictions: list[dict[str, Any]] = []
    for new, old in enumerate(image for segment in segments for image in segment):
        content["images"].append({**images_by_id[old], "id": new})
        content["annotations"] += [{**entry, "image_id": new} for entry in annotations[old]]
        predictions += [{**entry, "image_id": new} for entry in entries[old]]
    return content, predictions
