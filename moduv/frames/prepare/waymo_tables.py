"""Waymo Open, perception v2: one parquet file a segment and component, read with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from moduv.engine.errors import InputError
from moduv.frames.prepare.waymo_frame import (
    FRONT,
    TOP,
    Camera,
    DriveFrame,
    FrameLabels,
    LabelledBox,
    Lidar,
    range_image_points,
)

TIME, CAMERA_NAME, LASER_NAME = "key.frame_timestamp_micros", "key.camera_name", "key.laser_name"
LENS = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
Row = dict[str, Any]
Frame = TypeVar("Frame")


def read_tables(source: Path, segment: str, *, points: bool) -> Iterator[DriveFrame]:
    """The front camera's frames of a segment, in order of time.

    Args:
        source: folder of the components, e.g. `camera_image/<segment>.parquet`.
        points: also read the roof's lidar, where its components are there.

    Raises:
        InputError: naming a component that is missing or a column that is not there.
    """
    return _whole(source, segment, _frames(source, segment, points=points))


def _frames(source: Path, segment: str, *, points: bool) -> Iterator[DriveFrame]:
    camera = _camera(source, segment)
    poses = {row[TIME]: row for row in _rows(source, "vehicle_pose", segment)}
    clouds = _Clouds(source, segment) if points and (source / "lidar").is_dir() else None
    images = _rows(source, "camera_image", segment, CAMERA_NAME, FRONT)
    for row in sorted(images, key=lambda row: int(row[TIME])):
        pose = poses[row[TIME]]["[VehiclePoseComponent].world_from_vehicle.transform"]
        world_from_vehicle = np.array(pose, np.float64).reshape(4, 4)
        cloud = None if clouds is None else clouds.at(row[TIME], world_from_vehicle)
        yield DriveFrame(row["[CameraImageComponent].image"], world_from_vehicle, camera, cloud)


def read_table_labels(source: Path, segment: str, component: str) -> Iterator[FrameLabels]:
    """What is annotated in the front camera's frames of a segment, in order of time.

    Frames are numbered by the component `vehicle_pose`, which has all of them. Boxes are known of all
    frames, since the tables do not tell an empty frame from one that was not annotated.

    Args:
        source: folder of the components.
        component: camera_box or camera_segmentation.

    Raises:
        InputError: naming a component that is missing or does not belong to the others.
    """
    return _whole(source, segment, _labels(source, segment, component))


def _whole(source: Path, segment: str, frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames; a column or a frame's row that a component lacks is named."""
    try:
        yield from frames
    except KeyError as error:
        raise InputError(
            f"{source}: a component of segment {segment} lacks {error}; download perception v2 again."
        ) from None


def _labels(source: Path, segment: str, component: str) -> Iterator[FrameLabels]:
    camera = _camera(source, segment)
    times = sorted({int(row[TIME]) for row in _rows(source, "vehicle_pose", segment)})
    of_time: dict[int, list[Row]] = {time: [] for time in times}
    for row in _rows(source, component, segment, CAMERA_NAME, FRONT, may_lack=True):
        if int(row[TIME]) not in of_time:
            raise InputError(
                f"{source / component / segment}.parquet: has a frame that vehicle_pose lacks; download "
                "both components of this segment again."
            )
        of_time[int(row[TIME])].append(row)
    for index, time in enumerate(times):
        rows = of_time[time]
        if component == "camera_box":
            yield FrameLabels(index, camera, tuple(_box(row) for row in rows), None)
        elif rows:
            prefix = "[CameraSegmentationLabelComponent].panoptic_label"
            divisor = int(rows[0][f"{prefix}_divisor"])
            yield FrameLabels(index, camera, None, rows[0][prefix], divisor)


def _box(row: Row) -> LabelledBox:
    prefix = "[CameraBoxComponent]."
    x, y, width, height = (
        float(row[f"{prefix}box.{key}"]) for key in ("center.x", "center.y", "size.x", "size.y")
    )
    return LabelledBox(int(row[f"{prefix}type"]), (x, y), (width, height))


def _camera(source: Path, segment: str) -> Camera:
    calibration = _rows(source, "camera_calibration", segment, CAMERA_NAME, FRONT)[0]
    prefix = "[CameraCalibrationComponent]."
    return Camera(
        np.array([calibration[f"{prefix}intrinsic.{key}"] for key in LENS], np.float64),
        np.array(calibration[f"{prefix}extrinsic.transform"], np.float64).reshape(4, 4),
        int(calibration[f"{prefix}width"]),
        int(calibration[f"{prefix}height"]),
    )


class _Clouds:
    """The roof's lidar of a segment, by time."""

    def __init__(self, source: Path, segment: str) -> None:
        calibration = _rows(source, "lidar_calibration", segment, LASER_NAME, TOP)[0]
        prefix = "[LiDARCalibrationComponent]."
        values = calibration[f"{prefix}beam_inclination.values"]
        self._lidar = Lidar(
            np.array(calibration[f"{prefix}extrinsic.transform"], np.float64).reshape(4, 4),
            np.array([] if values is None else values, np.float64),
            float(calibration[f"{prefix}beam_inclination.min"]),
            float(calibration[f"{prefix}beam_inclination.max"]),
        )
        self._images = {r[TIME]: r for r in _rows(source, "lidar", segment, LASER_NAME, TOP)}
        has_poses = (source / "lidar_pose").is_dir()
        rows = _rows(source, "lidar_pose", segment, LASER_NAME, TOP) if has_poses else []
        self._poses = {row[TIME]: row for row in rows}

    def at(self, time: int, world_from_vehicle: np.ndarray) -> np.ndarray | None:
        if time not in self._images:
            return None
        image = _array(self._images[time], "[LiDARComponent].range_image_return1")
        row = self._poses.get(time)
        poses = None if row is None else _array(row, "[LiDARPoseComponent].range_image_return1")
        return range_image_points(image, self._lidar, poses, world_from_vehicle)


def _array(row: Row, column: str) -> np.ndarray:
    return np.array(row[f"{column}.values"], np.float32).reshape(row[f"{column}.shape"])


def _rows(
    source: Path,
    component: str,
    segment: str,
    key: str = "",
    name: int = 0,
    *,
    may_lack: bool = False,
) -> list[Row]:
    """Rows of a component, of one sensor where a key is given; without any only if it `may_lack` them."""
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import read_table
    except ImportError:
        raise InputError(
            "Waymo's parquet files need pyarrow; install it with pip install 'moduv[waymo]'."
        ) from None
    path = source / component / f"{segment}.parquet"
    if not path.is_file():
        raise InputError(
            f"{path}: missing; download the component {component!r} of this segment from "
            "waymo.com/open (perception v2, after accepting its licence)."
        )
    try:
        filters = [(key, "==", name)] if key else None
        rows = read_table(path, filters=filters).to_pylist()
    except (ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not readable ({reason}); download it again.") from None
    if not rows and not may_lack:
        raise InputError(f"{path}: has no row of sensor {name}; download it again.")
    return rows
