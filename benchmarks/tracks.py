"""Identities by propagated masks beside identities by boxes: switches, IDF1 and HOTA on street videos.

    python benchmarks/tracks.py --world DATA --detector WEIGHTS --follow WEIGHTS [--score 0.5]

DATA is a street world with clips of 30 frames. Both trackers get the same detections of every held-out clip;
what lies on truth that is to be ignored is left out. The measures are TrackEval's (`pip install --no-deps trackeval`),
with the IoU of masks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from moduv.correspondence.predict import Follower, PropagatedConfig
from moduv.correspondence.tracks import MaskTracker
from moduv.detector.weights import load_detector
from moduv.frames.images import read_image
from moduv.instances.instances import Instances
from moduv.instances.tracks import FrameTracker, Tracker

MATCH = 0.5
"""IoU of a detection with a truth above which it is of it."""
Frame = tuple[np.ndarray, Instances, Instances]
"""An image, its true objects with their `track`, and the detections."""


def clips(world: Path) -> Iterator[list[tuple[Path, list[dict[str, Any]]]]]:
    """Held-out clips: image files and their true objects."""
    content = json.loads((world / "annotations/val.json").read_text())
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    names = defaultdict(list)
    for image in sorted(content["images"], key=lambda image: image["file_name"]):
        path = world / image["file_name"]
        names[path.parent].append((path, objects[image["id"]]))
    yield from names.values()


def without_ignored(true: Instances, ignored: np.ndarray, found: Instances) -> Instances:
    """Detections that are not of truth to be ignored."""
    overlaps = found.iou(true)
    rows, columns = linear_sum_assignment(np.where(overlaps >= MATCH, overlaps, 0), maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    dropped = [row for row, column in pairs if overlaps[row, column] >= MATCH and ignored[column]]
    return found[np.setdiff1d(np.arange(len(found)), dropped)]


def read_clip(
    clip: list[tuple[Path, list[dict[str, Any]]]], detector: Any, score: float
) -> list[Frame]:
    frames = []
    for path, objects in clip:
        image = read_image(path)
        true = Instances.from_coco(objects, image.shape[:2])
        ignored = np.array([bool(a["ignore"]) for a in objects], bool)
        found = detector.predict(image, score)
        kept = without_ignored(true, ignored, found) if len(true) else found
        tracks = np.array([a["track_id"] for a in objects], np.int64)
        frames.append((image, true.with_columns(track=tracks)[np.flatnonzero(~ignored)], kept))
    return frames


def sequence(frames: list[Frame], tracker: FrameTracker) -> dict[str, Any]:
    """A clip in TrackEval's form."""
    found = [tracker.assign(image, detected) for image, _, detected in frames]
    true = [objects.columns["track"] for _, objects, _ in frames]
    numbers = [_from_zero(ids) for ids in (true, found)]
    return {
        "gt_ids": numbers[0],
        "tracker_ids": numbers[1],
        "num_gt_ids": len(np.unique(np.concatenate(true))),
        "num_tracker_ids": len(np.unique(np.concatenate(found))),
        "num_gt_dets": sum(map(len, true)),
        "num_tracker_dets": sum(map(len, found)),
        "num_timesteps": len(frames),
        "similarity_scores": [objects.iou(detected) for _, objects, detected in frames],
    }


def _from_zero(ids: list[np.ndarray]) -> list[np.ndarray]:
    known = np.unique(np.concatenate(ids))
    return [np.searchsorted(known, one) for one in ids]


def scores(videos: list[list[Frame]], make: Callable[[], FrameTracker]) -> dict[str, float]:
    from trackeval.metrics import CLEAR, HOTA, Identity

    begin = time.process_time()
    data = {str(i): sequence(frames, make()) for i, frames in enumerate(videos)}
    seconds = time.process_time() - begin
    combined: dict[str, Any] = {}
    for metric in (HOTA(), Identity({"PRINT_CONFIG": False}), CLEAR({"PRINT_CONFIG": False})):
        each = {name: metric.eval_sequence(one) for name, one in data.items()}
        combined |= metric.combine_sequences(each)
    told = {
        name: float(np.mean(combined[name]))
        for name in ("HOTA", "AssA", "DetA", "IDF1", "IDSW", "MOTA")
    }
    return {**told, "ms a frame": 1000 * seconds / sum(map(len, videos))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("world", "detector", "follow"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--stride", type=int, default=1, help="take every so many frames")
    given = parser.parse_args()
    detector = load_detector(given.detector, "cpu")
    follower = Follower.load(given.follow, PropagatedConfig(), torch.device("cpu"))
    videos = [
        read_clip(clip[:: given.stride], detector, given.score) for clip in clips(given.world)
    ]
    ways: dict[str, Callable[[], FrameTracker]] = {
        "boxes": Tracker,
        "masks": lambda: MaskTracker(follower),
    }
    for name, make in ways.items():
        print(f"{name:<8}", *(f"{k} {v:8.3f}" for k, v in scores(videos, make).items()))


if __name__ == "__main__":
    main()
