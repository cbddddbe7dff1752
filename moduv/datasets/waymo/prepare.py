"""Waymo Open, perception v1 (tfrecord) and v2 (parquet): front camera, lidar depths, what moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moduv.datasets.prepare import (
    PrepareConfig,
    prepare,
    write_camera,
    write_frame,
    write_points,
    write_poses,
)
from moduv.datasets.waymo.frame import Camera, DriveFrame, motion_of_points
from moduv.datasets.waymo.records import read_records
from moduv.datasets.waymo.tables import read_tables
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.engine.log import say

TFRECORD = ".tfrecord"
COMPONENTS = (
    "camera_image, camera_calibration and vehicle_pose, lidar, lidar_calibration and lidar_pose for "
    "depths, lidar_box for what moves"
)


def prepare_waymo(source: Path, out: Path, config: PrepareConfig, split: str = "train") -> None:
    """Prepare the front camera of Waymo Open.

    Args:
        source: folder of `*.tfrecord` files (v1), or of the components' folders (v2).
        out: receives `<split>/<segment>/FRONT/rgb|depth|mask`, `odometry.txt` and a split file.
        config: size of the shrunken frames; published: 320 x 480.
        split: first part of the segments' names; one `out` can hold several splits.

    Raises:
        InputError: saying what to download when there is nothing to prepare.
    """
    files = find_files(source, "camera_image", COMPONENTS)
    segments = [f"{split}/{segment_name(path)}" for path in files]
    jobs = [(path, out / segment, config) for path, segment in zip(files, segments, strict=True)]
    if files[0].suffix != TFRECORD and config.points and not (source / "lidar_box").is_dir():
        say(
            f"  {source}: has no component lidar_box, so no motion labels are written; download it beside "
            "lidar for them."
        )
    prepare("prepare waymo", out, config, jobs, segments, _prepare_drive)


def find_files(source: Path, component: str, components: str) -> list[Path]:
    """Return the files of the segments, tfrecords or else those of a component.

    Raises InputError when there are none, where `components` says which to download, and when two are of one segment.
    """
    records = sorted(source.glob(f"[!.]*{TFRECORD}"))
    tables = sorted((source / component).glob("[!.]*.parquet"))
    files = records or tables
    if records and tables:
        say(f"  {source}: has tfrecords; its {len(tables)} files of {component} are left out")
    if not files:
        raise InputError(
            f"{source}: has neither tfrecords nor {component}/*.parquet; download segments of the Waymo "
            "Open Dataset, perception, from waymo.com/open (accept its non-commercial licence): v1 "
            f"tfrecords, or the v2 components {components}."
        )
    name, count = Counter(map(segment_name, files)).most_common(1)[0]
    if count > 1:
        same = next(path for path in files if segment_name(path) == name)
        raise InputError(
            f"{source}: {count} files are of {name}, first {same.name}; move all but one of them away."
        )
    return files


def read_drive(path: Path, parts: Sequence[str]) -> Iterator[DriveFrame]:
    """Yield the frames of a segment's file; `parts` are the components that are wanted."""
    if path.suffix == TFRECORD:
        return read_records(path, parts)
    return read_tables(path.parent.parent, path.stem, parts)


def segment_name(path: Path) -> str:
    """Return the segment's name, `segment-…`, of a tfrecord or parquet file."""
    name = path.stem.removesuffix("_with_camera_labels")
    return name if name.startswith("segment-") else f"segment-{name}"


def _prepare_drive(job: tuple[Path, Path, PrepareConfig]) -> list[int]:
    """One segment; it is read again from its start after a kill, frames on disk are kept."""
    path, segment, config = job
    front, poses = segment / "FRONT", list[np.ndarray]()
    first: Camera | None = None
    parts = ("camera_image", "lidar") if config.points else ("camera_image",)
    for frame in read_drive(path, parts):
        camera = frame.camera
        if first is None:
            first = camera
            _write_camera(front / "rgb/cam.json", camera)
        if not first.fits(camera):
            raise InputError(
                f"{path}: the front camera of frame {frame.index} is calibrated otherwise than the first; download "
                "the segment again."
            )
        assert frame.image is not None
        name = f"{frame.index:06d}"
        size = (camera.width, camera.height)
        write_frame(frame.image, front / "rgb", f"{name}.jpg", config, size)
        _write_truth(front / f"depth/{name}.npy", front / f"mask/{name}.npz", frame)
        poses.append(frame.world_from_vehicle)
    write_poses(front / "odometry.txt", poses)
    return list(range(len(poses)))


def _write_camera(path: Path, camera: Camera) -> None:
    lens, extrinsic = camera.intrinsic.tolist(), camera.vehicle_from_camera.ravel().tolist()
    size = (camera.width, camera.height)
    write_camera(path, camera.matrix(), *size, intrinsic=lens, extrinsic=extrinsic)


def _write_truth(depth: Path, mask: Path, frame: DriveFrame) -> None:
    """Depth points (column, row, metres), and what each lies on; what exists is kept."""
    labelled = frame.solids is None or mask.is_file()
    if frame.points is None or (labelled and depth.is_file()):
        return
    seen, which = frame.camera.depths(frame.points)
    if frame.solids is not None and not labelled:
        write_npz(mask, motion_label=motion_of_points(frame.points[which], frame.solids))
    if not depth.is_file():
        write_points(depth, seen)
