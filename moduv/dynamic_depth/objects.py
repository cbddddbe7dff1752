"""Which of a video's objects move and which stand still (Nguyen et al. 2024, section 3.2).

What moves in a frame is known from another label set, such as L0. An object moves where that covers enough of
it, and what moves once moves in all frames of its track. Published instead: it moves where stage 1 sees flow, or where
it is ahead of the camera.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moduv.dynamic_depth.outputs import made_here, read_moving, read_road, with_road
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances.instances import Instances
from moduv.instances.store import SUFFIX, is_labelled, labelled, read_labels, write_labels
from moduv.instances.tracks import TrackConfig, Tracker

NOTHING = Instances([], np.zeros((0, 4)))
AHEAD = (19 / 40, 21 / 40)
"""The middle of the image, in shares of its width, where a car ahead may drive at our own speed."""


@dataclass(frozen=True)
class ObjectsConfig:
    """Which objects count, and when they move."""

    moving_share: float = 0.5
    """Share of an object that moving pixels must cover for it to move, in any frame of its track."""
    smallest: float = 0.005
    """Smallest area of an object, as a share of the image; the depth of smaller ones cannot be told."""
    largest: float = 0.5
    """Objects that cover this share of the image or more are left out, as too little of the scene is seen beside them."""
    score: float = 0.0
    """Smallest score of an object, where objects have scores."""
    tracked: bool = True
    """An object that moves in one frame moves in all frames of its track."""
    ahead: bool = False
    """Objects in the middle of the image always move: flow does not show a car ahead that drives at our own speed."""
    tracks: TrackConfig = field(default_factory=TrackConfig)
    """How objects are tracked."""

    def __post_init__(self) -> None:
        if not 0 < self.moving_share <= 1 or not 0 <= self.smallest < self.largest <= 1:
            raise InputError(
                f"moving_share is {self.moving_share}, smallest {self.smallest}, largest {self.largest}; use "
                "shares in (0, 1], the smallest below the largest."
            )


def sized(instances: Instances, config: ObjectsConfig) -> Instances:
    """The objects of a frame whose size and score are in range."""
    if not len(instances):
        return instances
    assert instances.size is not None, "instances have a size"
    share = instances.areas() / (instances.size[0] * instances.size[1])
    chosen: np.ndarray = (share >= config.smallest) & (share < config.largest)
    if instances.scores is not None:
        chosen &= instances.scores >= config.score
    return instances[chosen]


def covered_shares(instances: Instances, moved: Instances) -> np.ndarray:
    """The share (N,) of each object that masks of another label set cover together, resized to its size."""
    if not len(instances) or not len(moved):
        return np.zeros(len(instances))
    assert instances.size is not None, "instances have a size"
    masks = moved.resized(*instances.size).decode()  # (M, H, W)
    union = np.logical_or.reduce(masks)
    return np.array([union[mask].mean() if mask.any() else 0.0 for mask in instances.decode()])


def is_ahead(mask: np.ndarray) -> bool:
    """Whether an object (H, W) bool reaches into the middle of the image, where the cars ahead are."""
    left, right = (round(share * mask.shape[1]) for share in AHEAD)
    return bool(mask[:, left:right].any())


def label_motion(
    objects: Sequence[Instances], moved: Sequence[Instances], config: ObjectsConfig
) -> list[Instances]:
    """Add the columns `track` and `moving` (1 or 0) to the objects of successive frames.

    Args:
        objects: of each frame of a video, in order.
        moved: what moves in each of these frames.
    """
    tracker = Tracker(config.tracks)
    tracks, movers = [], set[int]()
    for found, moving in zip(objects, moved, strict=True):
        identities = tracker.update(found.boxes)
        moves = covered_shares(found, moving) >= config.moving_share
        if config.ahead:
            moves |= np.array([is_ahead(mask) for mask in found.decode()], bool)
        movers.update(identities[moves].tolist())
        tracks.append((identities, moves))
    return [
        found.with_columns(
            track=ids,
            moving=(np.isin(ids, list(movers)) if config.tracked else moves).astype(np.int64),
        )
        for found, (ids, moves) in zip(objects, tracks, strict=True)
    ]


def without_road(objects: Instances, road: np.ndarray, config: ObjectsConfig) -> Instances:
    """The objects of a frame without their pixels on the road (H, W) bool; those that become too small are dropped."""
    if not len(objects):
        return objects
    masks = objects.decode() & ~road
    kept = masks.mean((1, 2)) >= max(config.smallest, 1 / road.size)
    return Instances.from_dense(masks[kept], scores=None, columns=objects[kept].columns)


def find_objects(
    split: Path,
    labels: Path,
    moved: Path,
    out: Path,
    config: ObjectsConfig,
    road: Path | None = None,
) -> None:
    """Tell moving objects from static ones.

    Args:
        split: frames; those without labels, or without road where one is given, are left out and counted.
        labels: label root of all objects, moving and parked: L1, L2 or what a detector finds.
        moved: label root of what moves, such as L0, or folder of motion outputs with a motion mask; in a frame without
            such a file nothing moves, and such frames are counted.
        out: label root; receives the objects with the columns `track` and `moving`. Finished files are kept.
        config: sizes and thresholds.
        road: label root of the road, which is removed from the objects.

    Raises:
        InputError: when no frame has labels, none has a file in `moved`, or a file is broken or has another aspect ratio
            than the labels.
    """
    makers = made_here(labels, moved, road)
    stage = Stage("depth objects", out, config, (split, *makers))
    stage.run(lambda: _find(split, labels, moved, out, config, road))


def _find(
    split: Path, labels: Path, moved: Path, out: Path, config: ObjectsConfig, road: Path | None
) -> dict[str, Any]:
    frames = labelled(labels, read_split(split))
    if road is not None:
        frames = with_road(frames, road)
    _tell_unknown(frames, moved)
    segments: dict[str, list[FrameRef]] = defaultdict(list)
    for frame in sorted(frames):
        segments[frame.segment].append(frame)
    for name in progress(distributed.shard(sorted(segments)), desc="objects", unit="segment"):
        video = segments[name]
        if all(is_labelled(out, frame) for frame in video):
            continue
        objects = [sized(read_labels(labels, frame), config) for frame in video]
        moving = [_moved(moved, frame, of) for frame, of in zip(video, objects, strict=True)]
        for frame, found in zip(video, label_motion(objects, moving, config), strict=True):
            if road is not None and found.size is not None:
                found = without_road(found, read_road(road, frame, found.size), config)
            write_labels(out, frame, found)
    distributed.barrier()
    counts = np.array([_count(read_labels(out, frame)) for frame in frames]).sum(0)
    results = dict(zip(("moving", "static"), counts.tolist(), strict=True))
    say(
        f"  {results['moving']} moving and {results['static']} static objects in {len(frames)} frames"
    )
    if not results["moving"]:
        say(f"  nothing moves: no object is covered by {moved}, so depth will be left as it is")
    return {"frames": len(frames), **results}


def _tell_unknown(frames: Sequence[FrameRef], moved: Path) -> None:
    """Say how many frames have no file of what moves. Raises InputError when none has."""
    known = sum(
        frame.file(moved, SUFFIX).is_file() or frame.file(moved, ".npz").is_file()
        for frame in frames
    )
    if not known:
        raise InputError(
            f"{moved}: has neither labels nor motion outputs of the {len(frames)} frames; give the folder that tells "
            "what moves in them."
        )
    if known < len(frames):
        say(f"  {len(frames) - known} frames without a file in {moved}: nothing moves there")


def _moved(root: Path, frame: FrameRef, objects: Instances) -> Instances:
    """What moves in a frame. Raises InputError when its file is broken or has another aspect ratio than the objects."""
    if frame.file(root, SUFFIX).is_file():
        return read_labels(root, frame, objects.size)
    if frame.file(root, ".npz").is_file():
        moving = read_moving(frame, root)
        found = Instances.from_dense(moving[None]) if moving.any() else NOTHING
        if objects.size is not None:
            found.check_aspect(objects.size, frame.file(root, ".npz"))
        return found
    return NOTHING


def _count(objects: Instances) -> tuple[int, int]:
    moving = int(np.sum(movers(objects)))
    return moving, len(objects) - moving


def movers(objects: Instances) -> np.ndarray:
    """Which objects (N,) move. Raises InputError when the column `moving` is missing."""
    if len(objects) and "moving" not in objects.columns:
        raise InputError(
            "the objects do not tell which of them move; run moduv depth objects first."
        )
    return np.asarray(objects.columns.get("moving", []), bool).reshape(-1)
