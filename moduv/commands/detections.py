"""Detections of images and videos as COCO JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moduv.engine.log import say
from moduv.instances.coco import CATEGORIES
from moduv.instances.instances import Instances


@dataclass
class Detections:
    """What is found in images and videos, in COCO's form."""

    videos: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, entry: dict[str, Any], found: Instances) -> None:
        """Add a frame; objects that are followed have an identity in the column `track`."""
        assert found.size is not None
        height, width = found.size
        number = len(self.images) + 1
        self.images.append({"id": number, **entry, "height": height, "width": width})
        for result in found.to_coco(number):
            annotation = {"id": len(self.annotations) + 1, **result, "iscrowd": 0}
            self.annotations.append(annotation)

    def add_video(self, path: Path, frames: Sequence[tuple[float | None, Instances]]) -> None:
        """Add a video: the time of every frame, where it is known, and its objects."""
        number = len(self.videos) + 1
        height, width = frames[0][1].size or (0, 0)
        self.videos.append({"id": number, "name": str(path), "width": width, "height": height})
        for index, (at, found) in enumerate(frames):
            entry = {"file_name": f"{path}#{index:06d}", "video_id": number, "frame_index": index}
            when = {} if at is None else {"time": at}
            self.add({**entry, **when}, found)

    def content(self) -> dict[str, Any]:
        """The data set."""
        videos = {"videos": self.videos} if self.videos else {}
        found = {"images": self.images, "annotations": self.annotations}
        return {**videos, **found, "categories": CATEGORIES}

    def summarise(self, threshold: float, out: Path) -> None:
        """Say how many there are."""
        stills = sum("video_id" not in image for image in self.images)
        shown = sum(annotation["score"] > threshold for annotation in self.annotations)
        counted = [(stills, "image"), (len(self.videos), "video")]
        files = " and ".join(f"{n} {kind}{'s'[: n != 1]}" for n, kind in counted if n)
        say(f"{files}, {shown} objects above {threshold:g}: {out}")
