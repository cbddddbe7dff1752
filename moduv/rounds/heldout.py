"""Detections and label sets of held-out frames, frame by frame; what a killed run has finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.detector.predict import detections_to_coco, predict_together
from moduv.detector.train import load_detector
from moduv.engine.files import read_json, write_json
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.labels.instances import Instances
from moduv.labels.store import is_labelled, read_labels, write_labels


@dataclass(frozen=True)
class HeldOut:
    """The frames that a run is measured on, and the folder that receives what is found on them."""

    data: Path
    """Folder of the frames."""
    frames: list[FrameRef]
    images: list[dict[str, Any]]
    """The frames as COCO images, in the same order."""
    out: Path
    batch_size: int = 8

    def detect(
        self,
        rounds: Sequence[Path],
        labels: str = "",
        select: Callable[..., Instances] | None = None,
    ) -> None:
        """Write `<round>.json`, the COCO results of one or more detectors, and the labels they make.

        Detections are not kept as masks: at any time there are those of a batch. Rounds whose files
        are all there are left as they are.

        Args:
            rounds: folders of the detectors.
            labels: name of the label set, if they make one.
            select: makes labels of the detectors' `Predictions` and the path of the frame's image.
        """
        targets = [self.detections(folder.name) for folder in rounds]
        if all(path.is_file() for path in targets) and (not labels or self._whole(labels)):
            return
        found = predict_together(
            [load_detector(folder) for folder in rounds],
            self.frames,
            self.data,
            [None] * len(rounds),
            self.batch_size,
            desc=labels or rounds[0].name,
        )
        results: list[list[dict[str, Any]]] = [[] for _ in rounds]
        for image, (frame, predictions) in zip(self.images, found, strict=True):
            for entries, one in zip(results, predictions, strict=True):
                entries += detections_to_coco(one, image["id"])
            if select is not None:
                labelled = select(*predictions, frame.image_path(self.data))
                write_labels(self.out / labels, frame, labelled)
        for path, entries in zip(targets, results, strict=True):
            write_json(path, entries)

    def detections(self, name: str) -> Path:
        """The file of a round's COCO results."""
        return self.out / f"{name}.json"

    def confident(self, name: str, score: float) -> list[Instances]:
        """A round's detections with a score strictly above a threshold, frame by frame."""
        by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for entry in read_json(self.detections(name)):
            if entry["score"] > np.float32(score):
                by_image[entry["image_id"]].append(entry)
        return [
            self._sized(_instances(by_image[image["id"]]), frame)
            for image, frame in zip(self.images, self.frames, strict=True)
        ]

    def labels(self, name: str) -> list[Instances]:
        """A label set that detectors made, frame by frame."""
        root = self.out / name
        return [self._sized(read_labels(root, frame), frame) for frame in self.frames]

    def label(self, name: str, make: Callable[[FrameRef], Instances]) -> list[Instances]:
        """A label set that is made frame by frame; finished files are kept."""
        root, found = self.out / name, []
        for frame in self.frames:
            labels = read_labels(root, frame) if is_labelled(root, frame) else None
            # An empty file does not say at which size its masks are.
            if labels is None or labels.size is None:
                labels = make(frame)
                write_labels(root, frame, labels)
            found.append(labels)
        return found

    def _whole(self, labels: str) -> bool:
        return all(is_labelled(self.out / labels, frame) for frame in self.frames)

    def _sized(self, found: Instances, frame: FrameRef) -> Instances:
        """With the size of the frame's image, which an empty file does not say."""
        if found.size is not None:
            return found
        height, width = read_image(frame.image_path(self.data)).shape[:2]
        return Instances(found.masks, found.boxes, found.scores, (height, width))


def _instances(entries: list[dict[str, Any]]) -> Instances:
    """COCO results of one image."""
    corners = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    scores = np.array([entry["score"] for entry in entries], np.float32)
    return Instances([entry["segmentation"] for entry in entries], corners, scores)
