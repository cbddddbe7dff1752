"""Names of detections against names of true objects: accuracy, abstention, flips along tracks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from moduv.engine.errors import InputError
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

MATCH_IOU = 0.5
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Shares of the named objects at which the accuracy of the surest is told."""


@dataclass(frozen=True)
class Pair:
    """A true object and the detection on it."""

    truth: Annotation
    found: Annotation

    @property
    def true_kind(self) -> str:
        return kind_of(self.truth["name"])

    @property
    def named(self) -> bool:
        return "name" in self.found

    @property
    def right(self) -> bool:
        """Whether the whole name is the true one."""
        return bool(self.found.get("name") == self.truth["name"])

    @property
    def kind_right(self) -> bool:
        """Whether the last word is."""
        return self.named and kind_of(self.found["name"]) == self.true_kind


def kind_of(name: str) -> str:
    """The last word of a name: "red van" is a van."""
    return name.split()[-1]


def evaluate_naming(ground_truth: Path, predictions: Path, out: Path | None = None) -> None:
    """Evaluate the names of detections, at those that lie on an object of the ground truth.

    A name is right when all its words are, a kind when the last one is: "red van" is a van. `@0.5` is the surer half,
    `unknown` the share without a name, `flips` the share of followed objects that are called by several names.

    Args:
        ground_truth: COCO JSON whose objects have a `name`, and a `track_id` where they are followed.
        predictions: detections of `moduv name`.
        out: where to write the metrics as JSON.
    """
    metrics = measure_names(ground_truth, predictions)
    show_metrics(metrics, out)


def measure_names(ground_truth: Source, predictions: Source) -> dict[str, float]:
    """The metrics of names, over detections that lie on an object at an IoU of at least 0.5.

    Detections that were not looked at, without `name_score`, do not count. A name is right when it is the
    true one, a kind when the last words are equal: "red van" is a van.

    Returns a flat dictionary, -1 where there is nothing to average:

        count/{objects,on_objects,tracks,named,named_elsewhere}
        name/accuracy name/kind_accuracy      of all that lie on objects; the unknown are wrong
        name/kind_accuracy_{kind} name/kind_accuracy_macro
        name/unknown                          share without a name
        name/recall name/kind_recall          of all objects: found, and called by their name
        name/majority                         accuracy of the commonest true kind for all
        name/accuracy@{share} name/kind_accuracy@{share}
                                              of the share with a name that leads most over the next name
        name/auroc name/kind_auroc            how well that lead tells right names from wrong ones: 0.5 not at all
        name/auroc_score name/kind_auroc_score
                                              how well the score does
        name/track_accuracy name/track_kind_accuracy
                                              of true objects that are followed, each as much as the others
        name/flips name/kind_flips            of true objects seen twice or more: with several names

    Raises:
        InputError: for files that are broken, a truth without names, and detections without.
    """
    truth = read_ground_truth(ground_truth)
    results = read_results(predictions, truth)
    objects = [a for a in truth.annotations if isinstance(a.get("name"), str) and not is_ignored(a)]
    if not objects:
        raise InputError(f"{truth.name}: none of its objects has a 'name'; add them.")
    looked = [entry for entry in results.annotations if "name_score" in entry]
    if results.annotations and not looked:
        raise InputError(f"{results.name}: has no names; run moduv name on it first.")
    pairs = match(truth, looked)
    named = [pair for pair in pairs if pair.named]
    elsewhere = sum("name" in entry for entry in looked) - len(named)
    metrics: dict[str, float] = {
        "count/objects": len(objects),
        "count/on_objects": len(pairs),
        "count/named": len(named),
        "count/named_elsewhere": elsewhere,
        "name/accuracy": _mean([pair.right for pair in pairs]),
        "name/kind_accuracy": _mean([pair.kind_right for pair in pairs]),
        "name/unknown": _mean([not pair.named for pair in pairs]),
        "name/recall": sum(pair.right for pair in pairs) / len(objects),
        "name/kind_recall": sum(pair.kind_right for pair in pairs) / len(objects),
    }
    return metrics | _by_kind(pairs) | _abstention(named) | _flips(pairs)


def match(truth: DataSet, found: Sequence[Annotation]) -> list[Pair]:
    """One-to-one pairs of named true objects and detections, of the largest sum of IoUs."""
    results = group_by_image(found)
    pairs = []
    for image, entries in group_by_image(truth.annotations).items():
        objects = [e for e in entries if isinstance(e.get("name"), str) and not is_ignored(e)]
        overlaps = _overlaps(objects, results[image])
        rows, columns = linear_sum_assignment(np.where(overlaps >= MATCH_IOU, overlaps, 0), True)
        pairs += [
            Pair(objects[row], results[image][column])
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if overlaps[row, column] >= MATCH_IOU
        ]
    return pairs


def _overlaps(objects: Sequence[Annotation], found: Sequence[Annotation]) -> np.ndarray:
    """IoU (N, M) of masks where all have one, of boxes elsewhere."""
    if not objects or not found:
        return np.zeros((len(objects), len(found)))
    key = "segmentation"
    if all(key in entry for entry in (*objects, *found)):
        shapes = [[entry[key] for entry in side] for side in (objects, found)]
        return np.asarray(coco.iou(*shapes, [0] * len(found)))
    boxes = [
        np.array([e.get("bbox") or rle.box(e[key]) for e in side], float)
        for side in (objects, found)
    ]
    return np.asarray(coco.iou(*boxes, [0] * len(found)))


def _by_kind(pairs: Sequence[Pair]) -> dict[str, float]:
    right: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        right[pair.true_kind].append(pair.kind_right)
    each = {kind: float(np.mean(values)) for kind, values in sorted(right.items())}
    largest = max((len(values) for values in right.values()), default=0)
    return {
        **{f"name/kind_accuracy_{kind}": value for kind, value in each.items()},
        "name/kind_accuracy_macro": _mean(list(each.values())),
        "name/majority": largest / len(pairs) if pairs else -1.0,
    }


def _abstention(named: Sequence[Pair]) -> dict[str, float]:
    """Accuracy of the surest, what is gained by calling the rest unknown, and areas under ROC curves.

    The surest lead most over the next name: among few names that tells right from wrong better than the score, which
    tells known from unknown objects.
    """
    leads = [float(pair.found.get("name_margin", 0.0)) for pair in named]
    order = np.argsort(-np.array(leads), kind="stable")
    metrics = {}
    for share in COVERAGES:
        surest = [named[n] for n in order[: round(share * len(named))].tolist()]
        metrics[f"name/accuracy@{share}"] = _mean([pair.right for pair in surest])
        metrics[f"name/kind_accuracy@{share}"] = _mean([pair.kind_right for pair in surest])
    scores = [float(pair.found["name_score"]) for pair in named]
    for measured, ending in ((leads, "auroc"), (scores, "auroc_score")):
        metrics[f"name/{ending}"] = _auroc(measured, [pair.right for pair in named])
        metrics[f"name/kind_{ending}"] = _auroc(measured, [pair.kind_right for pair in named])
    return metrics


def _auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """The chance that a right one has a higher score than a wrong one; ties count half."""
    chosen = np.asarray(right, bool)
    count = int(chosen.sum())
    if not 0 < count < len(chosen):
        return -1.0
    above = rankdata(scores)[chosen].sum() - count * (count + 1) / 2
    return float(above / (count * (len(chosen) - count)))


def _flips(pairs: Sequence[Pair]) -> dict[str, float]:
    """How true objects are called over time: rightly, and by more than one name."""
    tracks: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if "track_id" in pair.truth:
            tracks[pair.truth["track_id"]].append(pair)
    right, kind_right = (
        [float(np.mean([getattr(pair, what) for pair in track])) for track in tracks.values()]
        for what in ("right", "kind_right")
    )
    names = [
        Counter(pair.found.get("name", "") for pair in track)
        for track in tracks.values()
        if len(track) > 1
    ]
    kinds = [{kind_of(name) if name else "" for name in track} for track in names]
    return {
        "count/tracks": len(names),
        "name/track_accuracy": _mean(right),
        "name/track_kind_accuracy": _mean(kind_right),
        "name/flips": _mean([len(track) > 1 for track in names]),
        "name/kind_flips": _mean([len(track) > 1 for track in kinds]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else -1.0
