"""KITTI (Geiger et al. 2012, 2013): raw drives as segments, boxes of its benchmarks as ground truth.

Raw drives are synced and rectified, with calibrations and velodyne scans. The boxes are those of the object
and of the tracking benchmark, of all labelled classes; `Misc` (trailers, segways, …) and `DontCare` are
regions in which detections are not judged. There are no masks. As in the benchmark's own evaluation, a box
reaches from its left to its right coordinate, without a pixel more.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from moduv.datasets.prepare import (
    PrepareConfig,
    prepare,
    read_scan,
    required,
    write_frame,
    write_points,
    write_poses,
)
from moduv.datasets.truth import (
    Selection,
    Size,
    TrueImage,
    TrueObject,
    TruthConfig,
    check_names,
    write_truth,
)
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_text
from moduv.engine.log import progress
from moduv.frames.images import image_size, read_image
from moduv.frames.kitti_calibration import (
    CAMERAS,
    SCANNER,
    VEHICLE,
    camera_from_scanner,
    read_camera,
)
from moduv.frames.layouts import IMAGE_SUFFIXES
from moduv.frames.listing import clip_images

SCANS = "velodyne_points/data"
SIDES = ("02", "03")
"""The colour cameras, left and right."""
EARTH = 6378137.0
"""The earth's radius at the equator in metres, as OXTS data is projected."""
DOWNLOAD = (
    "download the 'synced+rectified data' and 'calibration' archives of the raw data from "
    "cvlibs.net/datasets/kitti (registration, CC BY-NC-SA 3.0) and unpack them there."
)
CATEGORIES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Person", "Cyclist", "Tram")
"""`Person` is what the tracking labels call a sitting person."""
REGIONS = ("Misc", "DontCare")
OBJECTS, TRACKING = "label_2", "label_02"
DOWNLOAD_LABELS = (
    "download the left colour images and the training labels of the object or the tracking benchmark "
    "from cvlibs.net/datasets/kitti (registration, CC BY-NC-SA 3.0) and unpack them there."
)


def prepare_kitti(source: Path, out: Path, config: PrepareConfig) -> None:
    """Prepare KITTI raw drives.

    Args:
        source: folder of the days, each with its calibrations and drives.
        out: receives `<day>/<drive>/image_02|03/rgb|depth`, `odometry.txt`, the calibrations, a split.
        config: size of the shrunken frames; published: 192 x 640.

    Raises:
        InputError: saying what to download when drives or calibrations are missing.
    """
    drives = sorted(path for path in source.glob("*/*_sync") if path.is_dir())
    if not drives:
        raise InputError(f"{source}: has no day with a drive '*_sync'; {DOWNLOAD}")
    jobs, segments, left_out = [], [], Counter[str]()
    for drive in drives:
        located = (drive / "oxts/data").is_dir()
        for name in (CAMERAS, SCANNER, *((VEHICLE,) if located else ())):
            required(drive.parent / name, DOWNLOAD)
        for camera in SIDES:
            images = _images(drive / f"image_{camera}" / "data", left_out)
            if images:
                scans = [drive / SCANS / f"{number:010d}.bin" for number in images]
                if config.points:
                    left_out["depths of frames without scan"] += sum(not s.is_file() for s in scans)
                jobs.append((drive, out, camera, images, config))
                segments.append(f"{drive.parent.name}/{drive.name}/image_{camera}")
    if not jobs:
        raise InputError(
            f"{source}: its drives have no frames image_02/data/*.png or *.jpg; {DOWNLOAD}"
        )
    prepare("prepare kitti", out, config, jobs, segments, _prepare_drive, left_out)


def _images(folder: Path, left_out: Counter[str]) -> dict[int, Path]:
    """The images of a folder by number; PNG, as they are downloaded, before what they were converted to."""
    found = dict[int, Path]()
    paths = clip_images(folder) if folder.is_dir() else []
    for path in sorted(paths, key=lambda path: path.suffix.lower() != ".png"):
        if not re.fullmatch("0*[0-9]{1,18}", path.stem):
            left_out["images whose names are no numbers"] += 1
        elif int(path.stem) in found:
            left_out["second images of a frame"] += 1
        else:
            found[int(path.stem)] = path
    return dict(sorted(found.items()))


def _prepare_drive(job: tuple[Path, Path, str, dict[int, Path], PrepareConfig]) -> list[int]:
    """One camera of one drive."""
    drive, out, camera, images, config = job
    target = out / drive.parent.name / drive.name
    for name in (CAMERAS, SCANNER, VEHICLE):
        known, copied = drive.parent / name, target / name
        if known.is_file() and not copied.is_file():
            with atomic_path(copied) as temporary:
                shutil.copyfile(known, temporary)
    projection, to_camera = camera_from_scanner(drive.parent, camera)
    segment, poses = target / f"image_{camera}", _vehicle_poses(drive)
    if poses:
        write_poses(segment / "odometry.txt", poses)
    calibrated = read_camera(drive.parent / CAMERAS, f"image_{camera}")
    size = calibrated.width, calibrated.height
    for number, image in images.items():
        name = f"{number:010d}"
        write_frame(image, segment / "rgb", name + image.suffix.lower(), config, size)
        scan = drive / SCANS / f"{name}.bin"
        depth = segment / "depth" / f"{name}.npy"
        if config.points and scan.is_file() and not depth.is_file():
            write_points(depth, _scan_depths(scan, projection @ to_camera, image))
    return list(images)


def _vehicle_poses(drive: Path) -> list[np.ndarray]:
    """Poses (4, 4) of the vehicle at all frames, from where it was at the first; none without OXTS data.

    Places are Mercator's projection of latitude and longitude at the scale of the first latitude; the
    axes are x ahead, y left, z up, turned by roll, pitch and yaw (Geiger et al. 2013).
    """
    files = sorted((drive / "oxts/data").glob("*.txt"))
    if not files:
        return []
    values = np.array([_oxts(path, index) for index, path in enumerate(files)])
    latitude, longitude, altitude, *angles = values.T
    scale = EARTH * np.cos(np.radians(latitude[0]))
    poses = np.tile(np.eye(4), (len(files), 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("ZYX", np.stack(angles[::-1], 1)).as_matrix()
    poses[:, 0, 3] = scale * np.radians(longitude)
    poses[:, 1, 3] = scale * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    poses[:, 2, 3] = altitude
    return list(np.linalg.inv(poses[0]) @ poses)


def _oxts(path: Path, index: int) -> np.ndarray:
    """Latitude and longitude in degrees, altitude in metres, roll, pitch and yaw in radians."""
    if path.stem != f"{index:010d}":
        raise InputError(f"{path.parent}: lacks {index:010d}.txt; {DOWNLOAD}")
    try:
        values = np.array(read_text(path).split()[:6], np.float64)
    except ValueError:
        values = np.empty(0)
    # Angles beyond a turn would be degrees.
    highest = np.array([89.999, 360, np.inf, *[2 * np.pi] * 3])
    if len(values) < 6 or not np.isfinite(values).all() or (np.abs(values) > highest).any():
        raise InputError(f"{path}: does not begin with a place and three angles; {DOWNLOAD}")
    return values


def _scan_depths(scan: Path, projection: np.ndarray, image: Path) -> np.ndarray:
    """(row, column, metres ahead of the scanner), the nearest point of every pixel, by row.

    The published evaluation reads the distance ahead of the scanner, a hand's breadth off the
    camera's.
    """
    points = read_scan(scan, 4, DOWNLOAD)
    points = points[points[:, 0] >= 0]
    ahead = points[:, 0]
    seen = np.column_stack([points[:, :3], np.ones(len(points))]) @ projection.T
    height, width = read_image(image).shape[:2]
    # KITTI's calibration counts pixels from 1.
    columns = np.round(seen[:, 0] / seen[:, 2]) - 1
    rows = np.round(seen[:, 1] / seen[:, 2]) - 1
    inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    found = np.stack([rows[inside], columns[inside], ahead[inside]], 1)
    order = np.lexsort((found[:, 2], found[:, 1], found[:, 0]))
    found = found[order]
    first = np.ones(len(found), bool)
    first[1:] = (np.diff(found[:, :2], axis=0) != 0).any(1)
    return found[first]


@dataclass(frozen=True)
class KittiTruth(TruthConfig):
    """Which objects count; heights, occlusion, truncation are 25, 1, 0.3 at KITTI's moderate level."""

    categories: tuple[str, ...] = CATEGORIES
    """Types of objects that can move."""
    ignored: tuple[str, ...] = REGIONS
    """Types of regions in which detections are not judged."""
    max_occlusion: int = 3
    """More occluded objects (0 visible, 1 partly, 2 largely, 3 unknown) are ignored."""
    max_truncation: float = 1.0
    """Objects with a larger share outside the image are ignored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names((*self.categories, *self.ignored), (*CATEGORIES, *REGIONS), "KITTI")


def convert_kitti(
    source: Path,
    out: Path,
    config: KittiTruth,
    split: Path | None = None,
    labels: str = OBJECTS,
) -> None:
    """Write KITTI's 2D boxes as class-agnostic ground truth.

    Args:
        source: folder with `training/label_2` (object) or `training/label_02` (tracking), and the
            images `training/image_2` or `training/image_02` for their sizes.
        out: the file to write; images are named `training/image_2/NNNNNN.png`, or
            `training/image_02/SSSS/NNNNNN.png`.
        config: types, smallest object, occlusion and truncation.
        split: file of the images to take, e.g. `training/image_2 369`, or one of the benchmark's lists of
            numbers; None: all images.
        labels: label_2 or label_02.

    Raises:
        InputError: when labels are missing or a line is damaged.
    """
    folder = source / "training" / labels
    if labels not in {OBJECTS, TRACKING}:
        raise InputError(
            f"labels is {labels!r}; choose {OBJECTS} (object) or {TRACKING} (tracking)."
        )
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError(f"{folder}: has no label files; {DOWNLOAD_LABELS}")
    selection = Selection(split)
    images = (_objects if labels == OBJECTS else _tracking)(source, files, config, selection)
    write_truth(out, images, config, selection, f"KITTI {labels}")


def _objects(
    source: Path, files: list[Path], config: KittiTruth, selection: Selection
) -> Iterator[TrueImage]:
    for path in progress(files, desc="KITTI", unit="image"):
        name = f"training/image_2/{path.stem}.png"
        if name not in selection:
            continue
        found = [_object(path, number, fields, config) for number, fields in _rows(path)]
        yield TrueImage(name, _size(source / name), tuple(o for o in found if o is not None))


def _tracking(
    source: Path, files: list[Path], config: KittiTruth, selection: Selection
) -> Iterator[TrueImage]:
    """A sequence's images are those on disk and those that have labels."""
    for path in progress(files, desc="KITTI", unit="sequence"):
        folder = f"training/image_02/{path.stem}"
        images = clip_images(source / folder) if (source / folder).is_dir() else []
        frames: dict[int, list[TrueObject]] = {
            int(image.stem): [] for image in images if re.fullmatch("[0-9]{1,18}", image.stem)
        }
        for number, row in _rows(path):
            frame, _, *fields = row if len(row) > 2 else ("", "")
            if not re.fullmatch("[0-9]{1,18}", frame):
                raise _broken(path, number)
            found = _object(path, number, fields, config)
            frames.setdefault(int(frame), []).extend([] if found is None else [found])
        size = None
        for frame_number, objects in sorted(frames.items()):
            name = f"{folder}/{frame_number:06d}.png"
            if name in selection:
                size = size or _size(source / name)
                yield TrueImage(name, size, tuple(objects))


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The words of each line that is not empty, and its number."""
    lines = read_text(path).splitlines()
    return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _object(path: Path, number: int, fields: list[str], config: KittiTruth) -> TrueObject | None:
    """The object of a line: type, truncation, occlusion, angle, left, top, right, bottom, …"""
    name, *rest = fields or [""]
    try:
        truncation, occlusion, _, left, top, right, bottom = (float(value) for value in rest[:7])
    except ValueError:
        raise _broken(path, number) from None
    told = (truncation, occlusion, left, top, right, bottom)
    whole = all(map(math.isfinite, told)) and left <= right
    if not whole or top > bottom or name not in {*CATEGORIES, *REGIONS}:
        raise _broken(path, number)
    box = (left, top, right - left, bottom - top)
    if name in config.ignored:
        return TrueObject(box, name, ignore=True)
    if name not in config.categories:
        return None
    hard = occlusion > config.max_occlusion or truncation > config.max_truncation
    return TrueObject(box, name, ignore=hard)


def _broken(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is no label of KITTI; {DOWNLOAD_LABELS}")


def _size(path: Path) -> Size | None:
    """Height and width from the image's head, also of one that was converted; None where there is none."""
    paths = (path.with_suffix(suffix) for suffix in (path.suffix, *IMAGE_SUFFIXES))
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        return None
    size = image_size(found)
    if size is None:
        raise InputError(f"{found}: is no image; {DOWNLOAD_LABELS}")
    return size[1], size[0]
