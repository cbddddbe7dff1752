"""Detections and label sets of held-out frames; what a killed run has finished is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moduv.engine.files import read_json, write_json
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.instances.coco import coco_instances, group_by_image
from moduv.instances.instances import Instances
from moduv.instances.store import is_labelled, read_labels
from moduv.labels.initial import InitialConfig
from moduv.rounds.labelling import Select, detect_frames, label_motion_frames


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
        self, rounds: Sequence[Path], labels: str = "", select: Select | None = None
    ) -> None:
        """Write `<round>.json`, the COCO results of one or more detectors, and the labels they make.

        Detections are not kept as masks: at any time there are those of a few batches. Rounds whose
        files are all there are left as they are.

        Args:
            rounds: folders of the detectors.
            labels: name of the label set, if they make one.
            select: makes the labels of a frame.
        """
        targets = [self.detections(folder.name) for folder in rounds]
        if all(path.is_file() for path in targets) and (not labels or self._whole(labels)):
            return
        name, makers = labels or rounds[0].name, [(folder, None) for folder in rounds]
        out = self.out / labels if labels else None
        results: list[list[dict[str, Any]]] = [[] for _ in rounds]
        found = detect_frames(
            name, self.data, self.frames, makers, out, select, self.batch_size, workers=2
        )
        for image, (_, predictions) in zip(self.images, found, strict=True):
            for entries, one in zip(results, predictions, strict=True):
                entries += one.to_instances().to_coco(image["id"])
        for path, entries in zip(targets, results, strict=True):
            write_json(path, entries)

    def detections(self, name: str) -> Path:
        """The file of a round's COCO results."""
        return self.out / f"{name}.json"

    def found(self, name: str) -> list[Instances]:
        """A round's detections, frame by frame."""
        by_image = group_by_image(read_json(self.detections(name)))
        found = [coco_instances(by_image.get(image["id"], [])) for image in self.images]
        return [self._sized(one, frame) for one, frame in zip(found, self.frames, strict=True)]

    def initial_labels(self, name: str, motion: Path, config: InitialConfig) -> list[Instances]:
        """L0 of the motion outputs, frame by frame; finished files are kept."""
        label_motion_frames(self.frames, motion, self.out / name, config, self.data)
        return self.labels(name)

    def labels(self, name: str) -> list[Instances]:
        """A label set that was made, frame by frame."""
        root = self.out / name
        return [self._sized(read_labels(root, frame), frame) for frame in self.frames]

    def _whole(self, labels: str) -> bool:
        return all(is_labelled(self.out / labels, frame) for frame in self.frames)

    def _sized(self, found: Instances, frame: FrameRef) -> Instances:
        """With the size of the frame's image, which an empty file does not say."""
        if found.size is not None:
            return found
        height, width = read_image(frame.image_path(self.data)).shape[:2]
        return replace(found, size=(height, width))
