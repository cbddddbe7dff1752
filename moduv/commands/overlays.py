"""Overlays of detections that have names, over those that the demo has drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.files import read_json
from moduv.engine.log import progress
from moduv.frames.decoding import Timed
from moduv.frames.images import read_image, write_image
from moduv.frames.video import read_clip
from moduv.frames.video_writer import frame_rate, write_video
from moduv.instances.coco import coco_instances, group_by_image
from moduv.instances.instances import Instances
from moduv.naming.describe import UNKNOWN
from moduv.visual.drawing import draw_instances, instance_color


def draw_named(file: Path, targets: Mapping[str, Path], threshold: float) -> None:
    """Draw the objects of a named `detections.json` with their names.

    Args:
        file: what the demo has written, with names.
        targets: picture or mp4 of each image and video, by its name in the file.
        threshold: objects with a score above it are drawn.
    """
    content = read_json(file)
    found = group_by_image(content["annotations"])
    videos = {video["id"]: video["name"] for video in content.get("videos", [])}
    clips: dict[str, list[Instances]] = {name: [] for name in videos.values()}
    for image in progress(content["images"], desc="names", unit="frame"):
        objects = named_instances(found[image["id"]], image)
        if "video_id" in image:
            clips[videos[image["video_id"]]].append(objects.above(threshold))
        else:
            name = image["file_name"]
            shown = draw_instances(read_image(name), objects, score_threshold=threshold)
            write_image(targets[name], shown)
    for name, frames in clips.items():
        write_video(targets[name], _drawn(Path(name), frames), frame_rate(Path(name)))


def named_instances(annotations: list[dict[str, Any]], image: Mapping[str, Any]) -> Instances:
    """The objects of an image with their names, "unknown" where they have none, and tracks."""
    found = coco_instances(annotations, (image["height"], image["width"]))
    return found.with_columns(
        name=np.array([entry.get("name", UNKNOWN) for entry in annotations], str),
        # The colour follows the track; objects without one still differ.
        track=np.array([e.get("track_id", n) for n, e in enumerate(annotations)], np.int64),
    )


def _drawn(path: Path, frames: list[Instances]) -> Iterator[Timed]:
    for (at, image), found in zip(read_clip(path), frames, strict=True):
        colors = [instance_color(track) for track in found.columns["track"].tolist()]
        yield at, draw_instances(image, found, colors=colors)
