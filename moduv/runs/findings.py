"""What a measured run found on held-out frames, beside the ground truth if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import read_json
from moduv.evaluation.agreement import Agreement, compare, without_ignored
from moduv.frames.clip import FrameRef
from moduv.instances.coco import select_truth
from moduv.instances.instances import Instances
from moduv.instances.masks import coco_instances, group_by_image
from moduv.instances.store import read_labels
from moduv.runs.chains import LABEL_SETS, folder
from moduv.runs.measure import IMAGES

Size = tuple[int, int]
LARGE_ENOUGH = 0.01
"""Share of the image that an object covers which a telling frame shows."""


@dataclass(frozen=True)
class Truth:
    """True objects of each frame; `moving` (N,) bool says which of them move."""

    objects: list[Instances]
    moving: list[np.ndarray]
    ignored: list[Instances]


@dataclass(frozen=True)
class Findings:
    """Label sets and detections of a run; every list follows `frames`."""

    frames: list[FrameRef]
    sets: dict[str, list[Instances]] = field(default_factory=dict)
    """L0, L1 and L2, as far as they were made."""
    detections: list[Instances] | None = None
    """Of the final detector, whatever their score."""
    truth: Truth | None = None

    def layers(self, score: float) -> dict[str, list[Instances]]:
        """All that is drawn: label sets, detections above `score`, the truth."""
        shown = dict(self.sets)
        if self.detections is not None:
            shown["final"] = [found.above(score) for found in self.detections]
        if self.truth is not None:
            shown["truth"] = self.truth.objects
        return shown

    def found(self, score: float) -> dict[str, list[Instances]]:
        """All that the run found: label sets and detections above `score`."""
        return {name: s for name, s in self.layers(score).items() if name != "truth"}

    def representative_frames(self, score: float) -> list[FrameRef]:
        """One frame of each clip, those with most moving and parked objects first.

        Without truth, those with most labels of the last round.
        """
        if self.truth is not None:
            ranks = [self._objects(index) for index in range(len(self.frames))]
        else:
            last = list(self.found(score).values())[-1:]
            ranks = [(sum(len(found[i]) for found in last), 0) for i in range(len(self.frames))]
        return one_per_clip(self.frames, ranks)

    def verdicts(self, score: float) -> list[Agreement] | None:
        """How each frame turned out: what the last round found (first) against the truth, by boxes.

        Without truth, against the round before, by masks. None where there is only one.
        """
        found = list(self.found(score).values())
        if self.truth is not None and found:
            triples = zip(found[-1], self.truth.objects, self.truth.ignored, strict=True)
            return [compare(without_ignored(f, i), t, boxes=True) for f, t, i in triples]
        if len(found) < 2:
            return None
        return [compare(last, before) for last, before in zip(found[-1], found[-2], strict=True)]

    def _objects(self, index: int) -> tuple[int, int]:
        assert self.truth is not None
        objects = self.truth.objects[index]
        height, width = objects.size or (0, 0)
        large = objects.areas() > LARGE_ENOUGH * height * width
        moving = int((large & self.truth.moving[index]).sum())
        static = int(large.sum()) - moving
        return min(moving, static), moving + static


def read_findings(
    run: Path, data: Path, frames: list[FrameRef], annotations: Path | None
) -> Findings:
    """Read what `measure` left in a run's `evaluation` folder.

    Args:
        run: folder of the run.
        data: folder of the frames.
        frames: held-out frames that were measured.
        annotations: their true objects, COCO JSON; None where nobody knows.

    Raises:
        InputError: when the run was measured on other frames, or files are broken.
    """
    measured = folder(run, "evaluation")
    sets = {
        name: [read_labels(measured / name, frame) for frame in frames]
        for name in LABEL_SETS
        if (measured / name).is_dir()
    }
    images = _images(measured / IMAGES, data, frames, annotations)
    results = measured / f"{folder(run, 'final').name}.json"
    detections = None
    if results.is_file():
        by_image = group_by_image(read_json(results))
        detections = [coco_instances(by_image.get(i["id"], []), _size(i)) for i in images["images"]]
    truth = None if annotations is None else _truth(images)
    return Findings(frames, sets, detections, truth)


def _images(
    path: Path, data: Path, frames: Sequence[FrameRef], annotations: Path | None
) -> dict[str, Any]:
    """COCO images in the frames' order, with the annotations where there are any."""
    if annotations is not None:
        return select_truth(annotations, data, frames)
    if not path.is_file():
        raise InputError(
            f"{path}: missing; give the ground truth with --annotations, or measure the run again."
        )
    return select_truth(path, data, frames)


def _truth(content: dict[str, Any]) -> Truth:
    by_image = group_by_image(content["annotations"])
    objects, moving, ignored = [], [], []
    for image in content["images"]:
        known = by_image.get(image["id"], [])
        counted = [a for a in known if not (a.get("ignore") or a.get("iscrowd"))]
        others = [a for a in known if a.get("ignore") or a.get("iscrowd")]
        size = _size(image)
        objects.append(coco_instances(counted, size, boxes_as_masks=True))
        ignored.append(coco_instances(others, size, boxes_as_masks=True))
        moving.append(np.array([a.get("moving") == 1 for a in counted], bool))
    return Truth(objects, moving, ignored)


def _size(image: dict[str, Any]) -> Size | None:
    return (image["height"], image["width"]) if "height" in image else None


def one_per_clip(frames: Sequence[FrameRef], ranks: Sequence[tuple[float, ...]]) -> list[FrameRef]:
    """The frame of each clip with the highest rank, by falling rank."""
    best: dict[str, int] = {}
    for index, frame in enumerate(frames):
        if frame.segment not in best or ranks[index] > ranks[best[frame.segment]]:
            best[frame.segment] = index
    return [frames[i] for i in sorted(best.values(), key=lambda i: ranks[i], reverse=True)]
