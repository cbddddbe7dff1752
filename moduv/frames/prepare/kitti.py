"""KITTI raw: synced and rectified drives with calibrations and velodyne scans (Geiger et al. 2013)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path
from moduv.frames.images import read_image
from moduv.frames.kitti_calibration import CAMERAS, SCANNER, VEHICLE, camera_from_scanner
from moduv.frames.prepare.common import (
    PrepareConfig,
    prepare,
    required,
    rotations,
    write_frame,
    write_points,
    write_poses,
)

SIDES = ("02", "03")
"""The colour cameras, left and right."""
EARTH = 6378137.0
"""The earth's radius at the equator in metres, as OXTS data is projected."""
DOWNLOAD = (
    "download the 'synced+rectified data' and 'calibration' archives of the raw data from "
    "cvlibs.net/datasets/kitti (registration, CC BY-NC-SA 3.0) and unpack them there."
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
    jobs, segments = [], []
    for drive in drives:
        located = (drive / "oxts/data").is_dir()
        for name in (CAMERAS, SCANNER, *((VEHICLE,) if located else ())):
            required(drive.parent / name, DOWNLOAD)
        for camera in SIDES:
            if (drive / f"image_{camera}" / "data").is_dir():
                jobs.append((drive, out, camera, config))
                segments.append(f"{drive.parent.name}/{drive.name}/image_{camera}")
    prepare("prepare kitti", out, config, jobs, segments, _prepare_drive)


def _prepare_drive(job: tuple[Path, Path, str, PrepareConfig]) -> list[int]:
    """One camera of one drive."""
    drive, out, camera, config = job
    target = out / drive.parent.name / drive.name
    for name in (CAMERAS, SCANNER, VEHICLE):
        known, copied = drive.parent / name, target / name
        if known.is_file() and not copied.is_file():
            with atomic_path(copied) as temporary:
                shutil.copyfile(known, temporary)
    projection, to_camera = camera_from_scanner(drive.parent, camera)
    poses = _vehicle_poses(drive)
    if poses:
        write_poses(target / f"image_{camera}/odometry.txt", poses)
    numbers = []
    for image in sorted((drive / f"image_{camera}" / "data").glob("*.png")):
        frame = target / f"image_{camera}"
        original = frame / "rgb/original" / image.name
        small = frame / "rgb/downsample" / image.with_suffix(".jpg").name
        write_frame(image, original, small, config)
        scan = drive / "velodyne_points/data" / image.with_suffix(".bin").name
        depth = frame / "depth" / image.with_suffix(".npy").name
        if config.points and scan.is_file() and not depth.is_file():
            write_points(depth, _scan_depths(scan, projection @ to_camera, original))
        numbers.append(int(image.stem))
    return numbers


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
    poses[:, :3, :3] = rotations(*angles)
    poses[:, 0, 3] = scale * np.radians(longitude)
    poses[:, 1, 3] = scale * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    poses[:, 2, 3] = altitude
    return list(np.linalg.inv(poses[0]) @ poses)


def _oxts(path: Path, index: int) -> np.ndarray:
    """Latitude and longitude in degrees, altitude in metres, roll, pitch and yaw in radians."""
    if path.stem != f"{index:010d}":
        raise InputError(f"{path.parent}: lacks {index:010d}.txt; {DOWNLOAD}")
    try:
        values = np.array(path.read_text().split()[:6], np.float64)
    except ValueError:
        values = np.empty(0)
    if len(values) < 6 or not np.isfinite(values).all() or abs(values[0]) >= 90:
        raise InputError(f"{path}: does not begin with a place and three angles; {DOWNLOAD}")
    return values


def _scan_depths(scan: Path, projection: np.ndarray, image: Path) -> np.ndarray:
    """(row, column, metres ahead of the scanner), the nearest point of every pixel, by row.

    The published evaluation reads the distance ahead of the scanner, a hand's breadth off the
    camera's.
    """
    raw = np.fromfile(scan, np.float32)
    if raw.size % 4:
        raise InputError(f"{scan}: is no list of four numbers a point; {DOWNLOAD}")
    points = raw.reshape(-1, 4).astype(np.float64)
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
