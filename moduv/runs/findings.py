"""What a measured run found on held-out frames, beside the ground truth if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moduv.evaluation.agreement import Agreement, compare, without_ignored
from moduv.frames.clip import FrameRef
from moduv.instances.coco import coco_instances, group_by_image, is_ignored, select_truth
from moduv.instances.instances import Instances
from moduv.runs.chains import LABEL_SETS, folder
from moduv.runs.heldout import HeldOut
from moduv.runs.measure import IMAGES

LARGE_ENOUGH = 0.01
"""Share of the image above which an object makes a frame worth showing."""


@dataclass(frozen=True)
class Findings:
    """Label sets and detections of a run; every list follows `frames`."""

    frames: list[FrameRef]
    found: dict[str, Sequence[Instances]] = field(default_factory=dict)
    """L0, L1 and L2, as far as they were made, and the `final` detections above a score."""
    detections: list[Instances] = field(default_factory=list)
    """Of the final detector, whatever their score; empty where it was not measured."""
    truth: list[Instances] | None = None
    """True objects; the column `moving` says which of them move."""
    ignored: list[Instances] = field(default_factory=list)
    """Regions that the ground truth says to ignore."""

    @property
    def layers(self) -> dict[str, Sequence[Instances]]:
        """All that is drawn: what was found, and the truth."""
        return self.found | ({} if self.truth is None else {"truth": self.truth})

    def representative_frames(self) -> list[FrameRef]:
        """One frame of each clip, those with most moving and parked objects first.

        Without truth, those with most labels of the last round.
        """
        if self.truth is not None:
            ranks = [_moving_and_parked(objects) for objects in self.truth]
        else:
            last = list(self.found.values())[-1:]
            ranks = [(sum(len(found[i]) for found in last), 0) for i in range(len(self.frames))]
        return one_per_clip(self.frames, ranks)

    def verdicts(self) -> list[Agreement] | None:
        """How each frame turned out: what the last round found (first) against the truth, by boxes.

        Without truth, against the round before, by masks. None where there is only one.
        """
        found = list(self.found.values())
        if self.truth is not None and found:
            triples = zip(found[-1], self.truth, self.ignored, strict=True)
            return [compare(without_ignored(f, i), t, boxes=True) for f, t, i in triples]
        if len(found) < 2:
            return None
        return [compare(last, before) for last, before in zip(found[-1], found[-2], strict=True)]


def _moving_and_parked(objects: Instances) -> tuple[int, int]:
    """The rank of a frame by its large objects."""
    height, width = objects.size or (0, 0)
    large = objects.areas() > LARGE_ENOUGH * height * width
    moving = int((large & objects.columns["moving"]).sum())
    static = int(large.sum()) - moving
    return min(moving, static), moving + static


def read_findings(
    run: Path, data: Path, frames: list[FrameRef], annotations: Path | None, score: float
) -> Findings:
    """Read what `measure` left in a run's `evaluation` folder.

    Args:
        run: folder of the run.
        data: folder of the frames.
        frames: held-out frames that were measured.
        annotations: their true objects, COCO JSON; None where nobody knows.
        score: above which detections of the final detector count as found.

    Raises:
        InputError: when the run was measured on other frames, or files are missing or broken.
    """
    measured = folder(run, "evaluation")
    images = select_truth(measured / IMAGES, data, frames)["images"]
    held_out = HeldOut(data, frames, images, measured)
    found = {name: held_out.labels(name) for name in LABEL_SETS if (measured / name).is_dir()}
    final = folder(run, "final").name
    detections = held_out.found(final) if held_out.detections(final).is_file() else []
    if detections:
        found["final"] = [one.above(score) for one in detections]
    if annotations is None:
        return Findings(frames, found, detections)
    truth = select_truth(annotations, data, frames)
    by_image = group_by_image(truth["annotations"])
    known = [(image, by_image.get(image["id"], [])) for image in truth["images"]]
    return Findings(
        frames,
        found,
        detections,
        [_objects(image, [e for e in entries if not is_ignored(e)]) for image, entries in known],
        [_objects(image, [e for e in entries if is_ignored(e)]) for image, entries in known],
    )


def _objects(image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> Instances:
    """Annotations of an image; boxes stand for the masks that are missing."""
    size = (image["height"], image["width"]) if "height" in image else None
    moving = np.array([entry.get("moving") == 1 for entry in annotations], bool)
    return coco_instances(annotations, size, boxes_as_masks=True).with_columns(moving=moving)


def one_per_clip(frames: Sequence[FrameRef], ranks: Sequence[tuple[float, ...]]) -> list[FrameRef]:
    """The frame of each clip with the highest rank, by falling rank."""
    best: dict[str, int] = {}
    for index, frame in enumerate(frames):
        if frame.segment not in best or ranks[index] > ranks[best[frame.segment]]:
            best[frame.segment] = index
    return [frames[i] for i in sorted(best.values(), key=lambda i: ranks[i], reverse=True)]
