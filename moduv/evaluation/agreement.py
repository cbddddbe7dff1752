"""How far two label sets of the same frames agree: what stays, what is new. Needs no ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import add

import numpy as np
import torch
from pycocotools import mask as coco
from torchvision.ops import box_iou

from moduv.instances.instances import Instances

UNDEFINED = -1.0  # as in the detection metrics: nothing to average
MATCH = 0.5
"""IoU from which two instances count as the same."""


@dataclass(frozen=True)
class Agreement:
    """Pairs of instances of two sets; sums over frames add up with `+`."""

    first: int = 0
    second: int = 0
    pairs: int = 0
    overlap: float = 0.0
    """Sum of the pairs' IoU."""

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(*map(add, astuple(self), astuple(other)))

    @property
    def kept(self) -> float:
        """Share of the first set that the second one has, too."""
        return self.pairs / self.first if self.first else UNDEFINED

    @property
    def new(self) -> float:
        """Share of the second set that the first one lacks."""
        return 1 - self.pairs / self.second if self.second else UNDEFINED

    @property
    def f1(self) -> float:
        """Share of both sets that has a partner."""
        both = self.first + self.second
        return 2 * self.pairs / both if both else UNDEFINED

    @property
    def iou(self) -> float:
        """Mean IoU of the pairs."""
        return self.overlap / self.pairs if self.pairs else UNDEFINED


def compare(first: Instances, second: Instances, *, boxes: bool = False) -> Agreement:
    """Pair the instances of one frame, the largest overlaps first, each at most once.

    Args:
        first, second: labels or detections; the first are brought to the second's size.
        boxes: compare boxes instead of masks.
    """
    if not len(first) or not len(second):
        return Agreement(len(first), len(second))
    first = first.resized(*(second.size or first.size or (0, 0)))
    if boxes:
        overlaps = box_iou(torch.from_numpy(first.boxes), torch.from_numpy(second.boxes)).numpy()
    else:
        overlaps = first.iou(second)
    found = Agreement(len(first), len(second))
    while overlaps.max() >= MATCH:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        found += Agreement(pairs=1, overlap=float(overlaps[row, column]))
        overlaps[row, :] = overlaps[:, column] = -1
    return found


def compare_sets(first: Iterable[Instances], second: Iterable[Instances]) -> Agreement:
    """The agreement of two label sets, given frame by frame in the same order."""
    pairs = zip(first, second, strict=True)
    return sum((compare(one, other) for one, other in pairs), Agreement())


def describe_sets(sets: Mapping[str, Sequence[Instances]]) -> dict[str, dict[str, float]]:
    """Numbers of label sets of the same frames, and how each agrees with the one before.

    Args:
        sets: labels by the name of their set, frame by frame, in the order of the rounds.

    Returns, for each set, -1 where undefined:

        labels/count labels/per_frame labels/empty    labels, and the share of frames without any
        labels/size                                   median square root of the areas, pixels
        labels/score                                  mean score
        labels/kept labels/new labels/iou             as in `Agreement`, of masks at IoU 0.5
    """
    described = {}
    before: Sequence[Instances] | None = None
    areas = root_areas(sets)
    for name, frames in sets.items():
        scores = [s for found in frames if found.scores is not None for s in found.scores.tolist()]
        described[name] = {
            "labels/count": len(areas[name]),
            "labels/per_frame": len(areas[name]) / max(len(frames), 1),
            "labels/empty": sum(not len(found) for found in frames) / max(len(frames), 1),
            "labels/size": float(np.median(areas[name])) if areas[name] else UNDEFINED,
            "labels/score": float(np.mean(scores)) if scores else UNDEFINED,
        }
        if before is not None:
            found = compare_sets(before, frames)
            agreement = {"kept": found.kept, "new": found.new, "iou": found.iou}
            described[name] |= {f"labels/{key}": value for key, value in agreement.items()}
        before = frames
    return described


def root_areas(sets: Mapping[str, Sequence[Instances]]) -> dict[str, list[float]]:
    """Square roots of all areas of each set, in pixels of the largest masks that a frame has.

    L0 has the size of the motion masks, later sets that of the images.
    """
    largest = [
        max((found.size[0] for found in frames if found.size), default=0)
        for frames in zip(*sets.values(), strict=True)
    ]
    return {
        name: [
            height / found.size[0] * float(np.sqrt(area))
            for found, height in zip(frames, largest, strict=True)
            if found.size
            for area in found.areas()
        ]
        for name, frames in sets.items()
    }


def without_ignored(found: Instances, ignored: Instances) -> Instances:
    """The detections that do not lie in regions which the ground truth says to ignore."""
    if not len(found) or not len(ignored):
        return found
    ignored = ignored.resized(*(found.size or (0, 0)))
    # Of a crowd, COCO's overlap is the detection's own share inside of it.
    inside = np.asarray(coco.iou(found.masks, ignored.masks, [1] * len(ignored)))
    return found[inside.max(1) < 0.5]
