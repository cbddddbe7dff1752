"""KITTI raw: synced and rectified drives with calibrations and velodyne scans (Geiger et al. 2013)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path
from moduv.frames.images import read_image
from moduv.frames.prepare.common import PrepareConfig, prepare, required, write_frame, write_points

CAMERAS = ("02", "03")
CALIBRATIONS = ("calib_cam_to_cam.txt", "calib_imu_to_velo.txt", "calib_velo_to_cam.txt")
DOWNLOAD = (
    "download the 'synced+rectified data' and 'calibration' archives of the raw data from "
    "cvlibs.net/datasets/kitti (registration, CC BY-NC-SA 3.0) and unpack them there."
)


def prepare_kitti(source: Path, out: Path, config: PrepareConfig) -> None:
    """Prepare KITTI raw drives.

    Args:
        source: folder of the days, each with its calibrations and drives.
        out: receives `<day>/<drive>/image_02|03/rgb|depth`, the calibrations and a split.
        config: size of the shrunken frames; published: 192 x 640.

    Raises:
        InputError: saying what to download when drives or calibrations are missing.
    """
    drives = sorted(path for path in source.glob("*/*_sync") if path.is_dir())
    if not drives:
        raise InputError(f"{source}: has no day with a drive '*_sync'; {DOWNLOAD}")
    jobs, segments = [], []
    for drive in drives:
        for name in CALIBRATIONS[::2]:
            required(drive.parent / name, DOWNLOAD)
        for camera in CAMERAS:
            if (drive / f"image_{camera}" / "data").is_dir():
                jobs.append((drive, out, camera, config))
                segments.append(f"{drive.parent.name}/{drive.name}/image_{camera}")
    prepare("prepare kitti", out, config, jobs, segments, _prepare_drive)


def _prepare_drive(job: tuple[Path, Path, str, PrepareConfig]) -> list[int]:
    """One camera of one drive."""
    drive, out, camera, config = job
    target = out / drive.parent.name / drive.name
    for name in CALIBRATIONS:
        known, copied = drive.parent / name, target / name
        if known.is_file() and not copied.is_file():
            with atomic_path(copied) as temporary:
                shutil.copyfile(known, temporary)
    projection, rotation = _projection(drive.parent, camera)
    numbers = []
    for image in sorted((drive / f"image_{camera}" / "data").glob("*.png")):
        frame = target / f"image_{camera}"
        original = frame / "rgb/original" / image.name
        small = frame / "rgb/downsample" / image.with_suffix(".jpg").name
        write_frame(image, original, small, config)
        scan = drive / "velodyne_points/data" / image.with_suffix(".bin").name
        depth = frame / "depth" / image.with_suffix(".npy").name
        if config.points and scan.is_file() and not depth.is_file():
            write_points(depth, _scan_depths(scan, projection @ rotation, original))
        numbers.append(int(image.stem))
    return numbers


def _projection(day: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Projection (3, 4) of the rectified camera, and the way (4, 4) from the scanner to it."""
    cameras = _read_calibration(day / "calib_cam_to_cam.txt")
    scanner = _read_calibration(day / "calib_velo_to_cam.txt")
    try:
        rectification = np.eye(4)
        rectification[:3, :3] = cameras["R_rect_00"].reshape(3, 3)
        to_camera = np.eye(4)
        to_camera[:3] = np.column_stack([scanner["R"].reshape(3, 3), scanner["T"]])
        projection = cameras[f"P_rect_{camera}"].reshape(3, 4)
    except (KeyError, ValueError):
        raise InputError(
            f"{day}: the calibration lacks R_rect_00, P_rect_{camera}, R or T; {DOWNLOAD}"
        ) from None
    return projection, rectification @ to_camera


def _read_calibration(path: Path) -> dict[str, np.ndarray]:
    values = {}
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(":")
        try:
            values[key] = np.array(rest.split(), np.float64)
        except ValueError:
            continue  # dates
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
