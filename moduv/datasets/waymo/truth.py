"""Waymo Open, perception v1 and v2: panoptic masks or boxes of the front camera.

Of the panoptic classes those that Dynamo-Depth calls movable are taken: vehicles, cycles, people and
animals. Their pixels without an instance, what pedestrians carry, unnamed dynamic things, the
recording vehicle and undefined pixels are regions in which detections are not judged. Of the boxes,
vehicles, pedestrians and cyclists are taken, and unknown ones are not judged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from moduv.datasets.truth import (
    Box,
    Selection,
    TrueImage,
    TrueObject,
    TruthConfig,
    write_truth,
)
from moduv.datasets.waymo.frame import CYCLIST, PEDESTRIAN, UNKNOWN, VEHICLE, Camera, DriveFrame
from moduv.datasets.waymo.prepare import find_files, read_drive, segment_name
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.log import progress
from moduv.engine.parallel import process_map
from moduv.frames.clip import FrameRef
from moduv.frames.splits import write_split
from moduv.instances import rle

MASKS, BOXES = "masks", "boxes"
COMPONENTS = {MASKS: "camera_segmentation", BOXES: "camera_box"}
MOBILE = (
    "car, truck, bus, other large vehicle, bicycle, motorcycle, trailer, pedestrian, cyclist, "
    "motorcyclist, bird, ground animal"
)
PANOPTIC = dict(enumerate(MOBILE.split(", "), start=2))
PANOPTIC_REGIONS = {0: "undefined", 1: "ego vehicle", 16: "pedestrian object", 27: "dynamic"}
KINDS = {UNKNOWN: "unknown", VEHICLE: "vehicle", PEDESTRIAN: "pedestrian", CYCLIST: "cyclist"}


@dataclass(frozen=True)
class WaymoTruth(TruthConfig):
    """Which of Waymo Open's objects count."""

    undistort: bool = False
    """For frames without lens distortion, as from Dynamo-Depth's preparation, not `moduv prepare`."""
    workers: int = speed_only(2)
    """Segments at once."""


def convert_waymo(
    source: Path,
    out: Path,
    config: WaymoTruth,
    split: Path | None = None,
    part: str = "val",
    labels: str = MASKS,
    write_frames: Path | None = None,
) -> None:
    """Write the front camera's panoptic masks, or boxes, as class-agnostic ground truth.

    Args:
        source: folder of `*.tfrecord` files (v1), or of the components' folders (v2).
        out: the file to write; images are named `<part>/segment-…/NNNNNN.jpg`.
        config: smallest object, distortion, workers.
        split: file of the frames to take; None: all annotated ones.
        part: first part of the segments' names, as they were prepared.
        labels: masks (some frames of some segments) or boxes (all frames).
        write_frames: receives a split file of the images written, for `moduv measure`.

    Raises:
        InputError: saying what to download when there is nothing to convert, and for damaged files.
    """
    if labels not in COMPONENTS:
        raise InputError(f"labels is {labels!r}; choose {MASKS} or {BOXES}.")
    component = COMPONENTS[labels]
    also = f"camera_calibration, vehicle_pose and {component}"
    files = find_files(source, component, also)
    selection = Selection(split)
    images = _images(files, config, selection, part, labels)
    names = write_truth(out, images, config, selection, f"Waymo Open {part}, {labels}")
    if write_frames is not None:
        paths = [PurePosixPath(name) for name in names]
        write_split(write_frames, [FrameRef(str(p.parent), int(p.stem)) for p in paths])


def _images(
    files: list[Path], config: WaymoTruth, selection: Selection, part: str, labels: str
) -> Iterator[TrueImage]:
    segments = [f"{part}/{segment_name(path)}" for path in files]
    jobs = [job for job in zip(files, segments, strict=True) if selection.reaches(job[1])]
    work = partial(_segment, config=config, selection=selection, labels=labels)
    done = process_map(work, jobs, config.workers)
    for found in progress(done, desc="Waymo", total=len(jobs), unit="segment"):
        yield from found


def _segment(
    job: tuple[Path, str], config: WaymoTruth, selection: Selection, labels: str
) -> list[TrueImage]:
    """The annotated and wanted images of a segment."""
    path, segment = job
    images = []
    for frame in read_drive(path, [COMPONENTS[labels]]):
        name = f"{segment}/{frame.index:06d}.jpg"
        if name not in selection:
            continue
        if labels == BOXES and frame.boxes is not None:
            objects = _true_boxes(frame.boxes, frame.camera, undistort=config.undistort)
        elif labels == MASKS and frame.panoptic is not None:
            objects = _true_masks(frame.panoptic, frame, path, undistort=config.undistort)
        else:
            continue
        images.append(TrueImage(name, (frame.camera.height, frame.camera.width), tuple(objects)))
    return images


def _true_boxes(
    boxes: Sequence[tuple[int, Box]], camera: Camera, *, undistort: bool
) -> list[TrueObject]:
    return [
        TrueObject(straight_box(box, camera) if undistort else box, KINDS[kind], ignore=not kind)
        for kind, box in boxes
        if kind in KINDS
    ]


def _true_masks(png: bytes, frame: DriveFrame, path: Path, *, undistort: bool) -> list[TrueObject]:
    size = (frame.camera.height, frame.camera.width)
    # The header's size comes first: a small file may claim any.
    told = png[20:24] + png[16:20] == struct.pack(">II", *size)
    content = np.frombuffer(png if told else b"no PNG", np.uint8)
    label = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if label is None or label.dtype != np.uint16 or label.shape != size or frame.divisor < 1:
        raise InputError(
            f"{path}: the panoptic label of frame {frame.index} is no PNG of 16 bits and "
            f"{size[0]} x {size[1]} pixels; download the segment again."
        )
    if undistort:
        label = straight_label(label, frame.camera)
    return panoptic_objects(label, frame.divisor)


def panoptic_objects(label: np.ndarray, divisor: int) -> list[TrueObject]:
    """Extract objects and ignored regions of a panoptic label (H, W) uint16, class x divisor + instance."""
    objects = []
    for value in np.flatnonzero(np.bincount(label.ravel())):
        kind, instance = divmod(int(value), divisor)
        if kind not in PANOPTIC and kind not in PANOPTIC_REGIONS:
            continue
        mask = rle.encode(label == value)
        name = PANOPTIC.get(kind) or PANOPTIC_REGIONS[kind]
        ignore = kind not in PANOPTIC or not instance
        objects.append(TrueObject(rle.box(mask), name, mask, ignore=ignore))
    return objects


def straight_label(label: np.ndarray, camera: Camera) -> np.ndarray:
    """Undistort a label (H, W); beyond its border it becomes 0, undefined, which is ignored."""
    matrix, lens = camera.matrix(), camera.intrinsic[4:9]
    size = (camera.width, camera.height)
    maps = cv2.initUndistortRectifyMap(matrix, lens, np.eye(3), matrix, size, cv2.CV_32FC1)
    return cv2.remap(label, *maps, cv2.INTER_NEAREST, borderValue=0)


def straight_box(box: Box, camera: Camera) -> Box:
    """Return the box around the undistorted border of a box."""
    left, top, width, height = box
    around = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * (width, height) + (left, top)
    border = np.concatenate([np.linspace(*side, 9) for side in pairwise(around)])
    matrix = camera.matrix()
    seen = cv2.undistortPoints(border[:, None], matrix, camera.intrinsic[4:9], P=matrix)[:, 0]
    seen = np.clip(seen, 0, [camera.width, camera.height])
    (left, top), (right, bottom) = seen.min(0).tolist(), seen.max(0).tolist()
    return left, top, right - left, bottom - top
