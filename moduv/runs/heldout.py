"""Detections and label sets of held-out frames; what a killed run has finished is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moduv.detector.predictor import View
from moduv.engine.files import json_list, read_json
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
    _sizes: dict[FrameRef, tuple[int, int]] = field(default_factory=dict)
    """Of the images of frames without labels."""

    def detect(
        self,
        rounds: Sequence[Path],
        labels: str = "",
        select: Select | None = None,
        views: Sequence[View] = (),
    ) -> None:
        """Write `<round>.json`, the COCO results of one or more detectors, and the labels they make.

        Detections are not kept as masks: at any time there are those of a few batches. Rounds whose
        files are all there are left as they are.

        Args:
            rounds: folders of the detectors.
            labels: name of the label set, if they make one.
            select: makes the labels of a frame.
            views: of every frame, beside the plain one, for the labels.
        """
        targets = [self.detections(folder.name) for folder in rounds]
        labelled = not labels or all(is_labelled(self.out / labels, frame) for frame in self.frames)
        if labelled and all(path.is_file() for path in targets):
            return
        name, makers = labels or rounds[0].name, [(folder, None) for folder in rounds]
        out = self.out / labels if labels else None
        found = detect_frames(
            name, self.data, self.frames, makers, out, select, self.batch_size, 2, views
        )
        with ExitStack() as files:
            lists = [files.enter_context(json_list(path)) for path in targets]
            for image, (_, predictions) in zip(self.images, found, strict=True):
                for write, one in zip(lists, predictions, strict=True):
                    write(one.to_instances().to_coco(image["id"]))

    def detections(self, name: str) -> Path:
        """The file of a round's COCO results."""
        return self.out / f"{name}.json"

    def found(self, name: str) -> list[Instances]:
        """A round's detections, frame by frame."""
        by_image = group_by_image(read_json(self.detections(name)))
        found = [coco_instances(by_image.get(image["id"], [])) for image in self.images]
        return [self.sized(one, frame) for one, frame in zip(found, self.frames, strict=True)]

    def initial_labels(self, name: str, motion: Path, config: InitialConfig) -> Sequence[Instances]:
        """L0 of the motion outputs, frame by frame; finished files are kept."""
        label_motion_frames(self.frames, motion, self.out / name, config, self.data)
        return self.labels(name)

    def labels(self, name: str) -> Sequence[Instances]:
        """A label set that was made, frame by frame; every frame is read when it is asked for."""
        return LabelFiles(self, self.out / name)

    def sized(self, found: Instances, frame: FrameRef) -> Instances:
        """With the size of the frame's image, which an empty file does not say."""
        if found.size is not None:
            return found
        if frame not in self._sizes:
            height, width = read_image(frame.image_path(self.data)).shape[:2]
            self._sizes[frame] = height, width
        return replace(found, size=self._sizes[frame])


@dataclass(frozen=True)
class LabelFiles(Sequence[Instances]):
    """The labels of all held-out frames, of which only those that are looked at are in memory."""

    held_out: HeldOut
    root: Path

    def __len__(self) -> int:
        return len(self.held_out.frames)

    def __getitem__(self, index: Any) -> Any:
        frame = self.held_out.frames[index]
        return self.held_out.sized(read_labels(self.root, frame), frame)
