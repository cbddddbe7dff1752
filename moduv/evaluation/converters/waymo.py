"""Waymo Open, perception v1 and v2: panoptic masks or boxes of the front camera.

Of the panoptic classes those that Dynamo-Depth calls movable are taken: vehicles, cycles, people and
animals. Their pixels without an instance, what pedestrians carry, unnamed dynamic things, the
recording vehicle and undefined pixels are regions in which detections are not judged. Of the boxes,
vehicles, pedestrians and cyclists are taken, and unknown ones are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.log import progress
from moduv.engine.parallel import process_map
from moduv.evaluation.converters.writer import (
    Box,
    Selection,
    TrueImage,
    TrueObject,
    TruthConfig,
    box_of_mask,
    write_truth,
)
from moduv.frames.clip import FrameRef
from moduv.frames.prepare.waymo import segment_name
from moduv.frames.prepare.waymo_frame import Camera, FrameLabels, LabelledBox
from moduv.frames.prepare.waymo_records import read_drive_labels
from moduv.frames.prepare.waymo_tables import read_table_labels
from moduv.frames.splits import write_split
from moduv.instances import rle

MASKS, BOXES = "masks", "boxes"
COMPONENTS = {MASKS: "camera_segmentation", BOXES: "camera_box"}
PANOPTIC = {
    2: "car",
    3: "truck",
    4: "bus",
    5: "other large vehicle",
    6: "bicycle",
    7: "motorcycle",
    8: "trailer",
    9: "pedestrian",
    10: "cyclist",
    11: "motorcyclist",
    12: "bird",
    13: "ground animal",
}
PANOPTIC_REGIONS = {0: "undefined", 1: "ego vehicle", 16: "pedestrian object", 27: "dynamic"}
KINDS = {1: "vehicle", 2: "pedestrian", 4: "cyclist"}
UNKNOWN = 0
DOWNLOAD = (
    "download segments of the Waymo Open Dataset, perception, from waymo.com/open (accept its "
    "non-commercial licence): v1 tfrecords, or the v2 components camera_calibration, vehicle_pose and "
    "{}."
)


@dataclass(frozen=True)
class WaymoTruth(TruthConfig):
    """What of Waymo Open counts."""

    undistort: bool = False
    """For frames without lens distortion, as Dynamo-Depth's preparation makes them; `moduv prepare`
    keeps the frames as they were recorded."""
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
        split: frames to take; without it all that are annotated.
        part: first part of the segments' names, as they were prepared.
        labels: masks (some frames of some segments) or boxes (all frames).
        write_frames: receives a split file of the images written, for `moduv measure`.

    Raises:
        InputError: saying what to download when there is nothing to convert, and for damaged files.
    """
    if labels not in COMPONENTS:
        raise InputError(f"labels is {labels!r}; choose {MASKS} or {BOXES}.")
    files = sorted(source.glob("*.tfrecord"))
    files = files or sorted((source / COMPONENTS[labels]).glob("*.parquet"))
    if not files:
        what = DOWNLOAD.format(COMPONENTS[labels])
        raise InputError(f"{source}: has neither tfrecords nor {COMPONENTS[labels]}; {what}")
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
    for frame in _read(path, labels):
        name = f"{segment}/{frame.index:06d}.jpg"
        if name not in selection:
            continue
        objects: list[TrueObject] | None
        if labels == BOXES:
            objects = _true_boxes(frame, undistort=config.undistort)
        else:
            objects = _true_masks(frame, path, undistort=config.undistort)
        if objects is not None:
            size = (frame.camera.height, frame.camera.width)
            images.append(TrueImage(name, size, tuple(objects)))
    return images


def _read(path: Path, labels: str) -> Iterator[FrameLabels]:
    if path.suffix == ".tfrecord":
        return read_drive_labels(path)
    return read_table_labels(path.parent.parent, path.stem, COMPONENTS[labels])


def _true_boxes(frame: FrameLabels, *, undistort: bool) -> list[TrueObject] | None:
    if frame.boxes is None:
        return None
    objects = []
    for labelled in frame.boxes:
        box = _box(labelled)
        if undistort:
            box = straight_box(box, frame.camera)
        if labelled.kind in KINDS:
            objects.append(TrueObject(box, KINDS[labelled.kind]))
        elif labelled.kind == UNKNOWN:
            objects.append(TrueObject(box, "unknown", ignore=True))
    return objects


def _box(labelled: LabelledBox) -> Box:
    (x, y), (width, height) = labelled.centre, labelled.size
    return x - width / 2, y - height / 2, width, height


def _true_masks(frame: FrameLabels, path: Path, *, undistort: bool) -> list[TrueObject] | None:
    if frame.panoptic is None:
        return None
    label = cv2.imdecode(np.frombuffer(frame.panoptic, np.uint8), cv2.IMREAD_UNCHANGED)
    size = (frame.camera.height, frame.camera.width)
    if label is None or label.dtype != np.uint16 or label.shape != size or frame.divisor < 1:
        raise InputError(
            f"{path}: the panoptic label of frame {frame.index} is no PNG of 16 bits and "
            f"{size[0]} x {size[1]} pixels; download the segment again."
        )
    if undistort:
        label = straight_label(label, frame.camera)
    return panoptic_objects(label, frame.divisor)


def panoptic_objects(label: np.ndarray, divisor: int) -> list[TrueObject]:
    """Objects and ignored regions of a panoptic label (H, W) uint16, class x divisor + instance."""
    objects = []
    for value in np.flatnonzero(np.bincount(label.ravel())):
        kind, instance = divmod(int(value), divisor)
        if kind not in PANOPTIC and kind not in PANOPTIC_REGIONS:
            continue
        mask = rle.encode(label == value)
        name = PANOPTIC.get(kind) or PANOPTIC_REGIONS[kind]
        ignore = kind not in PANOPTIC or not instance
        objects.append(TrueObject(box_of_mask(mask), name, mask, ignore=ignore))
    return objects


def straight_label(label: np.ndarray, camera: Camera) -> np.ndarray:
    """A label (H, W) as a lens without distortion would see it; undefined, so ignored, beyond its border."""
    matrix, lens = camera.matrix(), camera.intrinsic[4:9]
    size = (camera.width, camera.height)
    maps = cv2.initUndistortRectifyMap(matrix, lens, np.eye(3), matrix, size, cv2.CV_32FC1)
    return cv2.remap(label, *maps, cv2.INTER_NEAREST, borderValue=0)


def straight_box(box: Box, camera: Camera) -> Box:
    """The box around a box's border as a lens without distortion would see it."""
    left, top, width, height = box
    steps = np.linspace(0, 1, 9)
    across, down = left + steps * width, top + steps * height
    border = np.concatenate(
        [
            np.stack([across, np.full(9, top)], 1),
            np.stack([across, np.full(9, top + height)], 1),
            np.stack([np.full(9, left), down], 1),
            np.stack([np.full(9, left + width), down], 1),
        ]
    )
    matrix = camera.matrix()
    seen = cv2.undistortPoints(border[:, None], matrix, camera.intrinsic[4:9], P=matrix)[:, 0]
    seen = np.clip(seen, 0, [camera.width, camera.height])
    (left, top), (right, bottom) = seen.min(0).tolist(), seen.max(0).tolist()
    return left, top, right - left, bottom - top
